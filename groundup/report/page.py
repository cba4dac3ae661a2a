"""Writes a run's report: `report.html`, which needs no other file and no network, and `report.json`."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson

from groundup.errors import UserError
from groundup.report import sections
from groundup.report.cards import cards
from groundup.report.classification_section import classification
from groundup.report.collect import collect
from groundup.report.data_section import data
from groundup.report.recipe_section import recipe
from groundup.report.table_section import table_data
from groundup.report.training_section import training
from groundup.report.tune_section import tuning
from groundup.rundir import write_atomically

_CONTENTS = {
    "tokens": ("training", "tuning", "data", "samples", "evaluation", "export", "plan", "recipe", "lineage"),
    "rows": ("evaluation", "training", "tuning", "data", "export", "plan", "recipe", "lineage"),
}


def write_report(run: Path) -> Path:
    """Writes `run/report.html` and `run/report.json`, and returns the path of the page.

    Each file is replaced as a whole, so that a reader never sees half of one. Raises UserError if `run` is
    no run folder or can't be written.
    """
    report = collect(run)
    try:
        write_atomically(run / "report.json", orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE))
        page = run / "report.html"
        write_atomically(page, render(report))
    except OSError as error:
        raise UserError(
            f"the report can't be written: {error.strerror or error}",
            where=str(run),
            expected="a folder with room that this user may write to",
        ) from error
    return page


def render(report: dict[str, Any]) -> str:
    """The page of what `collect` found."""
    style = files("groundup.report").joinpath("report.css").read_text(encoding="utf-8")
    script = files("groundup.report").joinpath("report.js").read_text(encoding="utf-8")
    # Nothing can be fetched and no other script can run, even if an escape were forgotten somewhere.
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    contents = _contents(report)
    links = "".join(f'<a href="#{name}">{name if name != "plan" else "model"}</a>' for name in contents)
    parts = [sections.header(report), sections.notices(report), cards(report), *contents.values()]
    body = "".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report['run']['name'])} · Groundup report</title><style>{style}</style></head>"
        f"<body><nav>{links}</nav><main>{body}</main>"
        f"<footer>The same numbers: <code>report.json</code> beside this page.</footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _contents(report: dict[str, Any]) -> dict[str, str]:
    """The page's sections by name, in their order. Of a search without a training only what is there is shown."""
    table = report["run"]["unit"] == "rows"
    writers = {
        "training": training,
        "tuning": tuning,
        "data": table_data if table else data,
        "samples": sections.samples,
        "evaluation": classification if table else sections.evaluation,
        "export": sections.export,
        "plan": sections.plan,
        "recipe": recipe,
        "lineage": sections.lineage,
    }
    shown = [name for name in _CONTENTS[report["run"]["unit"]] if name != "tuning" or report["tune"]]
    if report["run"]["only_tuned"]:
        shown = [name for name in shown if report["tune" if name == "tuning" else name]]
    return {name: writers[name](report) for name in shown}
