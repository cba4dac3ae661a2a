"""All numbers of a report, from the run folder's files alone."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import orjson

from groundup.errors import UserError
from groundup.report.classifier_summary import judge
from groundup.report.headline import headline, progress
from groundup.report.training_summary import summarise
from groundup.report.tune_summary import summarise_search

STEPS = ("prepare", "train", "evaluate", "export")


def collect(run: Path) -> dict[str, Any]:
    """What is known of `run`, at whatever stage it is; the parts that are not there yet are None.

    `missing` names them with the command that makes them; `problems` tells of files that can't be read.
    Curves hold at most 2000 points, chosen so that they look like the whole; `metrics.jsonl` has every
    line. A folder that holds a search and no training is a report of the search: nothing is missing there.

    Raises UserError if `run` is no run folder.
    """
    if not run.is_dir():
        raise UserError("there is no such run folder", where=str(run), advice="Make one with `groundup run RECIPE`")
    problems: list[str] = []
    recipe = _recipe(run, problems)
    values = recipe["values"] if recipe else {}
    data = _json(run, "data/manifest.json", problems)
    task = values.get("task") or (data or {}).get("task")
    unit = "rows" if task == "classification" else "tokens"
    training, samples = summarise(run, unit, str(_value(values, "train", "best_metric") or "loss"), problems)
    evaluation = _json(run, "evaluate.json", problems)
    parts = {"recipe": recipe, "lineage": _json(run, "lineage.json", problems)}
    parts |= {"look": _json(run, "data/look.json", problems)}
    parts |= {"plan": _json(run, "plan.json", problems), "data": data, "training": training}
    exports = _value(values, "export", "enabled") is not False
    parts |= {"evaluation": evaluation, "export": _json(run, "export.json", problems) if exports else None}
    parts["tune"] = summarise_search(run, _json(run, "tune.json", problems), _value(values, "tune", "trials"))
    steps = {name: _json(run, f"steps/{name}.json", problems) for name in STEPS if exports or name != "export"}
    if not problems and all(part is None for part in (*parts.values(), *steps.values())):
        raise UserError("nothing of a run is here", where=str(run), expected="a folder that `groundup run` made")
    only_tuned = parts["tune"] is not None and training is None
    choice = "best" if _value(values, "evaluate", "checkpoint") == "best" else "last"
    return {
        "format": 1,
        "run": {
            "path": _text(run),
            "name": str(values.get("name") or _text(run.resolve().name)),
            "task": task,
            "unit": unit,
            "checkpoint": choice,
            "only_tuned": only_tuned,
        },
        "headline": headline(unit, choice, parts, steps),
        "progress": progress(unit, values, data, training),
        "steps": [
            {"status": "done" if found else None, **(found or {}), "name": name}
            for name, found in steps.items()
            if found or not only_tuned
        ],
        **parts,
        "classifier": judge(evaluation) if unit == "rows" else None,
        "samples": samples,
        "exports": exports,
        "missing": [] if only_tuned else _missing(run, parts, exports, problems),
        "problems": problems,
    }


def _value(recipe: dict[str, Any], section: str, key: str) -> Any:
    found = recipe.get(section)
    return found.get(key) if isinstance(found, dict) else None


def _text(path: Path | str) -> str:
    """A path as valid Unicode, whatever bytes its name holds."""
    return str(path).encode("utf-8", "replace").decode()


def _json(run: Path, name: str, problems: list[str]) -> dict[str, Any] | None:
    try:
        found = orjson.loads((run / name).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        problems.append(f"{name} can't be read: {error}")
        return None
    if not isinstance(found, dict):
        problems.append(f"{name} holds no JSON object")
        return None
    return found


def _recipe(run: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        text = (run / "recipe.toml").read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"recipe.toml can't be read: {error}")
        return None
    return {"text": text, "values": values, "origins": _json(run, "recipe.origins.json", problems)}


def _missing(run: Path, parts: dict[str, Any], exports: bool, problems: list[str]) -> list[dict[str, str]]:
    """The parts that were not made yet; one whose file is damaged is among the problems instead. `exports`: whether
    the recipe asks for an export."""
    where = shlex.quote(_text(run))
    made_by = {
        "data": ("data/manifest.json", "not prepared yet", "prepare"),
        "plan": ("plan.json", "not planned yet", "plan"),
        "training": ("metrics.jsonl", "not trained yet", "train"),
        "evaluation": ("evaluate.json", "not evaluated yet", "evaluate"),
        **({"export": ("export.json", "not exported yet", "export")} if exports else {}),
    }
    return [
        {"part": part, "what": what, "command": f"groundup {verb} {where}"}
        for part, (file, what, verb) in made_by.items()
        if parts[part] is None and not any(problem.startswith(file) for problem in problems)
    ]
