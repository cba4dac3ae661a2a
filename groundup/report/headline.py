"""A run in a few numbers, and how far its training has come."""

from __future__ import annotations

from typing import Any

from groundup.recipe.quantities import parse_duration
from groundup.report.figures import number
from groundup.report.training_summary import VALIDATED, medians

Part = dict[str, Any] | None


def headline(unit: str, choice: str, parts: dict[str, Any], steps: dict[str, Part]) -> dict[str, Any]:
    """What the cards show. `unit`: tokens or rows; `choice`: which checkpoint is evaluated, last or best."""
    training, evaluation, data, plan = (parts[name] or {} for name in ("training", "evaluation", "data", "plan"))
    last = training.get("last") or {}
    quality, of = _quality(evaluation, training.get(f"{choice}_validation"))
    seconds = {name: number((step or {}).get("seconds")) or 0 for name, step in steps.items()}
    # The step's record may be missing, or of its last start only; the metrics' clock runs on over restarts.
    seconds["train"] = max(seconds["train"], number(last.get("seconds")) or 0)
    parameters = plan.get("parameters")
    found = {
        **{name: quality.get(name) for name in VALIDATED[unit]},
        "quality_of": of,
        "quality_step": quality.get("step"),
        "step": last.get("step"),
        unit: last.get("samples_consumed" if unit == "rows" else unit),
        "samples_consumed": last.get("samples_consumed"),
        "train_seconds": last.get("seconds"),
        "all_steps_seconds": sum(seconds.values()) or None,
        **(training.get("median") or dict.fromkeys(medians(unit))),
        "parameters": parameters.get("total") if isinstance(parameters, dict) else None,
    }
    return found | _table(evaluation, data) if unit == "rows" else found


def _quality(evaluation: dict[str, Any], validation: Part) -> tuple[dict[str, Any], str | None]:
    """The evaluation, unless a later checkpoint was validated that would be evaluated now."""
    step = number(evaluation.get("step"))
    if validation and (not evaluation or (step is not None and step < validation["step"])):
        return validation, "validation"
    return (evaluation, "evaluation") if evaluation else ({}, None)


def _table(evaluation: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """What was evaluated on, from the evaluation or else from the prepared data."""
    splits, classes = data.get("splits"), data.get("classes")
    test = splits.get("test") if isinstance(splits, dict) else None
    rows, known = evaluation.get("rows"), evaluation.get("classes")
    return {
        "roc_auc": evaluation.get("roc_auc"),
        "test_rows": rows if rows is not None or not isinstance(test, dict) else test.get("rows"),
        "classes": known if known is not None or not isinstance(classes, list) else len(classes),
        "features": data.get("features"),
    }


def progress(unit: str, recipe: dict[str, Any], data: Part, training: Part) -> dict[str, Any] | None:
    """What is trained against what the recipe asks for; None where either is unknown. `unit`: tokens or rows."""
    section, last = recipe.get("train"), (training or {}).get("last") or {}
    if not isinstance(section, dict):
        return None
    try:
        asked = parse_duration(section.get("duration"))
    except ValueError:
        return None
    splits = (data or {}).get("splits")
    train = splits.get("train") if isinstance(splits, dict) else None
    done = number(last.get("samples_consumed" if unit == "rows" else unit))
    epoch = number(train.get(unit)) if isinstance(train, dict) else None
    done, whole = {
        "steps": (number(last.get("step")), asked.value),
        "tokens": (done, asked.value),
        "epochs": (done, asked.value * (epoch or 0)),
    }[asked.unit]
    if done is None or not whole:
        return None
    return {"asked": str(asked), "fraction": min(1.0, done / whole)}
