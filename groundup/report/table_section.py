"""The data's part of a table's page: which rows were dropped and why, the classes in each part, and the columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from groundup.report.bars import bar_chart, funnel, stacked_bars
from groundup.report.figures import UNKNOWN, duration, number, percent, plain, quantity, records, whole
from groundup.report.markup import Html, code, facts, fold, long_table, pill, section, table, text
from groundup.report.sections import Report, not_there

SHOWN_CLASSES = 15
PARTS = ("train", "validation", "test")


def table_data(report: Report) -> Html:
    manifest = report["data"]
    if not manifest:
        return section("data", "Data", not_there(report, "data"))
    stages = records(manifest.get("stages"))
    graphics = []
    if stages:
        graphics.append(funnel(_levels(stages), title="Rows through the stages"))
    reasons = Counter[str]()
    for stage in stages:
        reasons.update(_dropped(stage))
    if reasons.total():
        graphics.append(bar_chart(reasons.most_common(12), title="Why rows were dropped", unit="rows", color=1))
    splits = _splits(manifest)
    classes = _class_counts(manifest, splits)
    if classes:
        shown, note = classes, ""
        if len(classes) > SHOWN_CLASSES:
            shown = sorted(classes, key=lambda one: -sum(one[1]))[:SHOWN_CLASSES]
            note = f"the {SHOWN_CLASSES} largest of {len(classes):,}"
        graphics.append(stacked_bars(shown, list(splits), title="Rows by class", note=note, wide=len(graphics) > 1))
    warnings = manifest.get("warnings")
    told = [f'<p class="notice">{text(one)}</p>' for one in (warnings if isinstance(warnings, list) else [])]
    body = (
        "".join(told)
        + f'<div class="charts">{"".join(graphics)}</div>'
        + _stages(stages)
        + _parts(manifest, splits, classes)
        + _columns(records(manifest.get("columns")))
    )
    return section("data", "Data", body)


def _levels(stages: Sequence[dict[str, Any]]) -> list[tuple[str, float]]:
    """Rows after each stage that holds all rows; the stages after the split only look at them."""
    start = float(number(stages[0].get("documents_in")) or 0)
    after = [(str(s.get("name", UNKNOWN)), float(number(s.get("documents_out")) or 0)) for s in stages]
    return after if after[0][1] == start else [("in", start), *after]


def _dropped(stage: dict[str, Any]) -> dict[str, int]:
    found = stage.get("dropped")
    return {str(k): int(number(v) or 0) for k, v in found.items()} if isinstance(found, dict) else {}


def _splits(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = manifest.get("splits")
    known = {str(k): v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    return {name: known[name] for name in (*PARTS, *known) if name in known}


def _class_counts(manifest: dict[str, Any], splits: dict[str, dict[str, Any]]) -> list[tuple[str, list[float]]]:
    """Rows of each class in each part, in the classes' order."""
    by_part = [found if isinstance(found := split.get("classes"), dict) else {} for split in splits.values()]
    labels = manifest.get("classes")
    names = [str(label) for label in labels] if isinstance(labels, list) else []
    counted = dict.fromkeys(name for part in by_part for name in part)
    ordered = dict.fromkeys([*(name for name in names if name in counted), *counted])
    return [(name, [float(number(part.get(name)) or 0) for part in by_part]) for name in ordered]


def _stages(stages: Sequence[dict[str, Any]]) -> str:
    if not stages:
        return ""
    rows = []
    for stage in stages:
        seconds, size = number(stage.get("seconds")), number(stage.get("bytes_in"))
        why = ", ".join(f"{whole(n)} {reason}" for reason, n in _dropped(stage).items() if n)
        rows.append(
            (
                stage.get("name", UNKNOWN),
                whole(stage.get("documents_in")),
                whole(stage.get("documents_out")),
                quantity(size, "B") if size else UNKNOWN,
                duration(seconds),
                duration(stage.get("cpu_seconds")),
                quantity(size / seconds, "B/s") if seconds and size else UNKNOWN,
                why or "none",
            )
        )
    head = ["Stage", "Rows in", "out", "Bytes in", "Time", "CPU time", "Speed", "Dropped"]
    return table(head, rows, align="lrrrrrrl")


def _parts(
    manifest: dict[str, Any], splits: dict[str, dict[str, Any]], classes: Sequence[tuple[str, Sequence[float]]]
) -> str:
    total = sum(number(split.get("rows")) or 0 for split in splits.values())
    rows = [
        (name, whole(split.get("rows")), percent((number(split.get("rows")) or 0) / total) if total else UNKNOWN)
        for name, split in splits.items()
    ]
    pieces = table(["Part", "Rows", "Share"], rows) if rows else ""
    if classes:
        counts = [(name, *(whole(v) for v in values), whole(sum(values))) for name, values in classes]
        body = f'<div class="scroll" tabindex="0">{table(["Class", *splits, "All"], counts)}</div>'
        pieces += fold(f"Rows of {len(classes):,} classes by part", body)
    about = [
        ("Target", code(manifest.get("target", UNKNOWN))),
        ("Classes", whole(len(classes)) if classes else UNKNOWN),
        ("Columns", whole(len(records(manifest.get("columns"))))),
        ("Features, encoded", whole(manifest.get("features"))),
        ("Largest memory", quantity((number(manifest.get("peak_memory_mb")) or 0) * 1e6 or None, "B")),
        ("Fingerprint", code(manifest.get("fingerprint", UNKNOWN))),
    ]
    return f'<div class="split"><div>{pieces}</div>{facts(about)}</div>'


def _columns(columns: Sequence[dict[str, Any]]) -> str:
    if not columns:
        return ""
    kinds = Counter(str(column.get("kind", UNKNOWN)) for column in columns)
    constant = sum(column.get("constant") is True for column in columns)
    words = [f"{whole(n)} {kind}" for kind, n in kinds.most_common()]
    words += [f"{whole(constant)} constant"] if constant else []
    rows = [
        (
            column.get("name", UNKNOWN),
            _kind(column),
            whole(column.get("missing")),
            whole(column.get("distinct")),
            *(plain(column.get(key)) for key in ("mean", "std", "min", "max")),
        )
        for column in columns
    ]
    head = ["Column", "Kind", "Missing", "Distinct", "Mean", "Deviation", "Smallest", "Largest"]
    body = long_table(head, rows, what="columns", align="llrrrrrr", first=20)
    return f'<h3>Columns</h3><p class="under">{text(", ".join(words))}</p>{body}'


def _kind(column: dict[str, Any]) -> Html:
    constant = f" {pill('constant', 'open')}" if column.get("constant") is True else ""
    return Html(text(column.get("kind", UNKNOWN)) + constant)
