"""Reads `metrics.jsonl`: what a training wrote down, without what a restart took back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from groundup.report.figures import number
from groundup.report.scales import Floats, smooth, thin

Row = dict[str, Any]
CURVE_POINTS = 2000


@dataclass
class Metrics:
    """The lines that count, by step; of several lines for a step the last one."""

    train: dict[int, Row] = field(default_factory=dict)
    validation: dict[int, Row] = field(default_factory=dict)
    samples: dict[tuple[int, str], Row] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)
    unreadable: int = 0

    def take_back(self, step: int) -> None:
        """Forget what came after `step`: the model went back to its state of then."""
        for rows in (self.train, self.validation):
            for late in [s for s in rows if s > step]:
                del rows[late]
        for key in [k for k in self.samples if k[0] > step]:
            del self.samples[key]


def read_metrics(path: Path) -> Metrics:
    """All lines of `path`. Lines that are no JSON object with a step are counted, a torn last line is not.

    `seconds` is made to run on over restarts: a clock that begins anew after a resume is continued.
    """
    found = Metrics()
    started, restarted = 0.0, False
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = orjson.loads(line)
                step = row["step"] = int(row["step"])
                kind = row["kind"]
                if not 0 <= step < 2**63:
                    raise ValueError(step)
            except (TypeError, KeyError, ValueError, OverflowError):
                if line.strip() and line.endswith(b"\n"):
                    found.unreadable += 1
                continue
            if kind == "train":
                seconds = number(row.get("seconds"))
                if restarted and seconds is not None:
                    before = _last_seconds(found.train)
                    started, restarted = (before if seconds < before else 0.0), False
                row["seconds"] = None if seconds is None else seconds + started
                found.train[step] = row
            elif kind == "validation":
                found.validation[step] = row
            elif kind == "sample":
                found.samples[step, str(row.get("prompt", ""))] = row
            elif kind == "resume":
                found.take_back(step)
                found.resumed.append(step)
                restarted = True
    return found


def _last_seconds(rows: dict[int, Row]) -> float:
    return float(rows[max(rows)]["seconds"] or 0.0) if rows else 0.0


def column(rows: dict[int, Row], name: str) -> Floats:
    """One value per step, steps ascending; NaN where there is none."""
    values = (number(rows[step].get(name)) for step in sorted(rows))
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def curve(rows: dict[int, Row], name: str, unit: str, *, smoothed: bool = False) -> dict[str, list[Any]] | None:
    """`{"step", unit, "value"}` (and `"smoothed"`), at most 2000 points; None without a finite value.

    `unit`: tokens or rows, which are counted along with the steps.

    Half of the points are chosen along the step, half along its logarithm, so that the curve is whole on both
    kinds of axis. Both keep the extremes. A value that is not finite is None.
    """
    value = column(rows, name)
    if not np.isfinite(value).any():
        return None
    step = np.array(sorted(rows), dtype=np.float64)
    half = CURVE_POINTS // 2
    chosen = np.arange(len(step))
    if len(step) > CURVE_POINTS:
        chosen = np.union1d(thin(step, value, half), thin(np.log(np.maximum(step, 1.0)), value, half))
    points: dict[str, list[Any]] = {
        "step": [int(s) for s in step[chosen]],
        # A sample of a table is a row.
        unit: optional(column(rows, "samples_consumed" if unit == "rows" else unit)[chosen]),
        "value": optional(value[chosen]),
    }
    if smoothed:
        points["smoothed"] = optional(smooth(value, chosen))
    return points


def optional(values: NDArray[np.float64]) -> list[float | None]:
    """JSON has no NaN: None in its place."""
    return [v if np.isfinite(v) else None for v in values.tolist()]
