"""What `metrics.jsonl` says of a training: its last and best values, its curves, and the sampled texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from groundup.report.figures import number
from groundup.report.metrics import Metrics, Row, column, curve, read_metrics

SHOWN_SAMPLE_STEPS = 12
VALIDATED = {
    "tokens": ("loss", "perplexity", "bits_per_byte"),
    "rows": ("loss", "accuracy", "f1_weighted", "f1_macro"),
}


def medians(unit: str) -> tuple[str, ...]:
    """The measurements that a median stands for; `unit` is tokens or rows."""
    return f"{unit}_per_second", "flops_per_second", "peak_share"


def summarise(
    run: Path, unit: str, best_metric: str, problems: list[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(numbers and curves, sampled texts); None for what is not there. `best_metric` tells the best validation.

    What can't be read is added to `problems`.
    """
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
    smoothed = ("loss", "grad_norm", f"{unit}_per_second", "peak_share")
    curves = {
        f"train_{name}": curve(metrics.train, name, unit, smoothed=name in smoothed)
        for name in (*smoothed, "lr", "flops_per_second")
    }
    curves |= {f"validation_{name}": curve(metrics.validation, name, unit) for name in VALIDATED[unit]}
    loss = column(metrics.train, "loss")
    return {
        "lines": {"train": len(metrics.train), "validation": len(metrics.validation)},
        "last": _last(metrics.train),
        "last_validation": _last(metrics.validation),
        "best_validation": _best(metrics.validation, best_metric),
        "best_metric": best_metric,
        "median": {name: _median(column(metrics.train, name)) for name in medians(unit)},
        "resumed_at": metrics.resumed,
        "losses_not_finite": int(np.count_nonzero(~np.isfinite(loss))),
        "curves": curves,
    }, samples


def _last(rows: dict[int, Row]) -> Row | None:
    return rows[max(rows)] if rows else None


def _best(rows: dict[int, Row], metric: str) -> Row | None:
    """The first of equals. A loss is best where it is lowest, accuracy and F1 where they are highest."""
    sign = 1 if metric == "loss" else -1
    known = [row for row in rows.values() if number(row.get(metric)) is not None]
    return min(known, key=lambda row: (sign * row[metric], row["step"])) if known else None


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
