"""Axes: where a value lies, which ticks to write, and which points are enough to draw a curve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [0, 1], by value or by logarithm."""

    low: float
    high: float
    log: bool = False

    def position(self, values: Floats) -> Floats:
        """Where `values` lie; NaN for what has no place: not finite, or not positive on a log axis."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.log:
                found = (np.log(values) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
            else:
                found = (values - self.low) / (self.high - self.low)
        return np.where(np.isfinite(found), found, np.nan)

    def ticks(self, about: int) -> list[float]:
        """Round values within the range, about so many."""
        return _log_ticks(self.low, self.high, about) if self.log else _linear_ticks(self.low, self.high, about)


def fit(values: Floats, *, log: bool = False, zero: bool = False, pad: float = 0.0) -> Scale | None:
    """A scale that shows all finite values (all positive ones on a log axis); None where there are none.

    `zero` includes zero on a linear axis; `pad` widens the range by this share on the sides that are not
    zero.
    """
    shown = values[np.isfinite(values) & ((values > 0) if log else True)]
    if shown.size == 0:
        return None
    low, high = float(shown.min()), float(shown.max())
    if log:
        # A factor of 1.1 around a single value gives the axis some width.
        factor = (high / low) ** pad if high > low else 1.1
        return Scale(low / factor, high * factor, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    # Half of the value, not a constant: a learning rate of 3e-4 must not be drawn on an axis of width 1.
    room = (high - low) * pad if high > low else abs(high) / 2 or 1.0
    return Scale(low if zero and low == 0 else low - room, high if zero and high == 0 else high + room)


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m, most in ((1, 1.5), (2, 3.0), (5, 7.0), (10, 10.1)) if rough / power <= most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Rounding removes the dust of binary fractions, as in 0.30000000000000004.
    decimals = max(0, 1 - math.floor(math.log10(step)))
    return [round(k * step, decimals) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    """Decades, 1-2-5 or 1-to-9 within them, whichever comes nearest to the wanted number of ticks."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    stride = max(1, round((last - first) / max(about, 1)))
    candidates = [
        [10.0**k for k in decades if k % stride == 0],
        [m * 10.0**k for k in decades for m in (1, 2, 5)],
        [m * 10.0**k for k in decades for m in range(1, 10)],
    ]
    inside = [[t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)] for ticks in candidates]
    nearest = min(inside, key=lambda ticks: (abs(len(ticks) - about), -len(ticks)))
    return nearest if len(nearest) > 1 else [t for t in _linear_ticks(low, high, about) if t > 0]


def thin(position: Floats, value: Floats, limit: int) -> NDArray[np.intp]:
    """Indices, ascending and at most `limit`, of the points that carry a curve's shape.

    `position` ascends; its range (what the eye sees: take logarithms for a log axis) is cut into equal
    bins. Of each the lowest and the highest value stay, and one gap (a value that is not finite) where
    there is one. The first and the last point always stay.
    """
    points = len(value)
    if points <= limit:
        return np.arange(points)
    finite = np.isfinite(value)
    per_bin = 2 if finite.all() else 3
    bins = max(1, (limit - 2) // per_bin)
    width = float(position[-1] - position[0]) or 1.0
    bin_of = np.clip(((position - position[0]) / width * bins).astype(np.intp), 0, bins - 1)
    order = np.lexsort((np.where(finite, value, 0.0), ~finite, bin_of))
    keys = bin_of[order] * 2 + ~finite[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    ends = np.r_[starts[1:], points] - 1
    kept = np.r_[order[starts], order[ends[keys[starts] % 2 == 0]]]
    return np.unique(np.r_[0, kept, points - 1])


def smooth(value: Floats, at: NDArray[np.intp]) -> Floats:
    """The interquartile mean around each of the points `at`, over up to 4 % of all points; gaps stay gaps.

    Only the middle half of the values counts, so that a single spike does not raise its whole
    neighbourhood. The window reaches back over a quarter of the points before it at most, so that the steep
    start of a loss curve is not flattened.
    """
    finite = np.isfinite(value)
    widest = max(1, len(value) // 50)
    means = np.full(len(at), np.nan)
    for k, i in enumerate(at):
        if finite[i]:
            half = min(int(i) // 4, widest)
            window = slice(i - half, i + half + 1)
            near = np.sort(value[window][finite[window]])
            means[k] = near[len(near) // 4 : len(near) - len(near) // 4].mean()
    return means
