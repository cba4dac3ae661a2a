"""All numbers of a report, from the run folder's files alone."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from groundup.errors import UserError
from groundup.recipe.quantities import parse_duration
from groundup.report.figures import number
from groundup.report.metrics import Metrics, Row, column, curve, read_metrics

STEPS = ("prepare", "train", "evaluate", "export")
SHOWN_SAMPLE_STEPS = 12
_SMOOTHED = ("loss", "grad_norm", "tokens_per_second", "peak_share")
_MEDIANS = ("tokens_per_second", "flops_per_second", "peak_share")
_TRAIN_CURVES = (*_SMOOTHED, "lr", "flops_per_second")
_VALIDATION_CURVES = ("loss", "perplexity", "bits_per_byte")


def collect(run: Path) -> dict[str, Any]:
    """What is known of `run`, at whatever stage it is; the parts that are not there yet are None.

    `missing` names them with the command that makes them; `problems` tells of files that can't be read.
    Curves hold at most 2000 points, chosen so that they look like the whole; `metrics.jsonl` has every
    line.

    Raises UserError if `run` is no run folder.
    """
    if not run.is_dir():
        raise UserError("there is no such run folder", where=str(run), advice="Make one with `groundup run RECIPE`")
    problems: list[str] = []
    recipe = _recipe(run, problems)
    data = _json(run, "data/manifest.json", problems)
    evaluation = _json(run, "evaluate.json", problems)
    export = _json(run, "export.json", problems)
    plan = _json(run, "plan.json", problems)
    lineage = _json(run, "lineage.json", problems)
    steps = [_json(run, f"steps/{name}.json", problems) for name in STEPS]
    training, samples = _training(run, problems)
    parts = {"recipe": recipe, "lineage": lineage, "plan": plan, "data": data, "training": training}
    parts |= {"evaluation": evaluation, "export": export}
    if not problems and all(part is None for part in (*parts.values(), *steps)):
        raise UserError("nothing of a run is here", where=str(run), expected="a folder that `groundup run` made")
    values = recipe["values"] if recipe else {}
    return {
        "format": 1,
        "run": {
            "path": _text(run),
            "name": str(values.get("name") or _text(run.resolve().name)),
            "task": values.get("task"),
        },
        "headline": _headline(training, evaluation, plan, steps),
        "progress": _progress(values, data, training),
        "steps": [
            {"status": "done" if found else None, **(found or {}), "name": name}
            for name, found in zip(STEPS, steps, strict=True)
        ],
        **parts,
        "samples": samples,
        "missing": _missing(run, parts, problems),
        "problems": problems,
    }


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


def _training(run: Path, problems: list[str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the metrics say: numbers and curves, and the sampled texts."""
    try:
        metrics = read_metrics(run / "metrics.jsonl")
    except FileNotFoundError:
        return None, None
    except OSError as error:
        problems.append(f"metrics.jsonl can't be read: {error}")
        return None, None
    if metrics.unreadable:
        problems.append(f"metrics.jsonl: {metrics.unreadable} line(s) can't be read and are left out")
    samples = _samples(metrics)
    if not metrics.train and not metrics.validation:
        return None, samples
    curves = {f"train_{name}": curve(metrics.train, name, smoothed=name in _SMOOTHED) for name in _TRAIN_CURVES}
    curves |= {f"validation_{name}": curve(metrics.validation, name) for name in _VALIDATION_CURVES}
    loss = column(metrics.train, "loss")
    return {
        "lines": {"train": len(metrics.train), "validation": len(metrics.validation)},
        "last": _last(metrics.train),
        "last_validation": _last(metrics.validation),
        "best_validation": _best(metrics.validation),
        "median": {name: _median(column(metrics.train, name)) for name in _MEDIANS},
        "resumed_at": metrics.resumed,
        "losses_not_finite": int(np.count_nonzero(~np.isfinite(loss))),
        "curves": curves,
    }, samples


def _last(rows: dict[int, Row]) -> Row | None:
    return rows[max(rows)] if rows else None


def _best(rows: dict[int, Row]) -> Row | None:
    known = [row for row in rows.values() if number(row.get("loss")) is not None]
    return min(known, key=lambda row: (row["loss"], row["step"])) if known else None


def _median(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _samples(metrics: Metrics) -> dict[str, Any] | None:
    """The first, the last and evenly chosen steps between, each with all of its texts."""
    steps = sorted({step for step, _ in metrics.samples})
    if not steps:
        return None
    shown = steps
    if len(steps) > SHOWN_SAMPLE_STEPS:
        shown = [steps[round(i)] for i in np.linspace(0, len(steps) - 1, SHOWN_SAMPLE_STEPS)]
    by_step: dict[int, list[dict[str, str]]] = {step: [] for step in shown}
    for (step, prompt), row in metrics.samples.items():
        if step in by_step:
            by_step[step].append({"prompt": prompt, "text": str(row.get("text", ""))})
    return {"steps_sampled": len(steps), "shown": [{"step": s, "texts": t} for s, t in by_step.items()]}


def _newest_quality(evaluation: Row | None, validation: Row | None) -> tuple[Row, str | None]:
    """The evaluation, unless training went on and was validated since."""
    if evaluation is None:
        return (validation, "validation") if validation else ({}, None)
    step = number(evaluation.get("step"))
    if validation and step is not None and step < validation["step"]:
        return validation, "validation"
    return evaluation, "evaluation"


def _headline(
    training: dict[str, Any] | None,
    evaluation: dict[str, Any] | None,
    plan: dict[str, Any] | None,
    steps: list[dict[str, Any] | None],
) -> dict[str, Any]:
    """The run in a few numbers."""
    last = (training or {}).get("last") or {}
    quality, of = _newest_quality(evaluation, (training or {}).get("last_validation"))
    seconds = {name: number((s or {}).get("seconds")) or 0 for name, s in zip(STEPS, steps, strict=True)}
    # The step's record may be missing, or of its last start only; the metrics' clock runs on over restarts.
    seconds["train"] = max(seconds["train"], number(last.get("seconds")) or 0)
    parameters = (plan or {}).get("parameters")
    return {
        **{name: quality.get(name) for name in ("loss", "perplexity", "bits_per_byte")},
        "quality_of": of,
        "quality_step": quality.get("step"),
        "step": last.get("step"),
        "tokens": last.get("tokens"),
        "samples_consumed": last.get("samples_consumed"),
        "train_seconds": last.get("seconds"),
        "all_steps_seconds": sum(seconds.values()) or None,
        **((training or {}).get("median") or dict.fromkeys(_MEDIANS)),
        "parameters": parameters.get("total") if isinstance(parameters, dict) else None,
    }


def _progress(
    recipe: dict[str, Any], data: dict[str, Any] | None, training: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Tokens trained against the tokens the recipe asks for; None where either is unknown."""
    section = recipe.get("train")
    done = number(((training or {}).get("last") or {}).get("tokens"))
    if not isinstance(section, dict) or done is None:
        return None
    try:
        asked = parse_duration(section.get("duration"))
    except ValueError:
        return None
    splits = (data or {}).get("splits")
    train = splits.get("train") if isinstance(splits, dict) else None
    per_unit = {
        "tokens": 1.0,
        "steps": number(section.get("batch_tokens")),
        "epochs": number(train.get("tokens")) if isinstance(train, dict) else None,
    }[asked.unit]
    if not per_unit or not asked.value:
        return None
    return {"asked": str(asked), "fraction": min(1.0, done / (asked.value * per_unit))}


def _missing(run: Path, parts: dict[str, Any], problems: list[str]) -> list[dict[str, str]]:
    """The parts that were not made yet; one whose file is damaged is among the problems instead."""
    where = shlex.quote(_text(run))
    made_by = {
        "data": ("data/manifest.json", "not prepared yet", "prepare"),
        "plan": ("plan.json", "not planned yet", "plan"),
        "training": ("metrics.jsonl", "not trained yet", "train"),
        "evaluation": ("evaluate.json", "not evaluated yet", "evaluate"),
        "export": ("export.json", "not exported yet", "export"),
    }
    return [
        {"part": part, "what": what, "command": f"groundup {verb} {where}"}
        for part, (file, what, verb) in made_by.items()
        if parts[part] is None and not any(problem.startswith(file) for problem in problems)
    ]
