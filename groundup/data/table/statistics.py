"""Statistics of the training rows in one pass: moments of numbers, counts of categories.

Blocks' moments are merged by the formula of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances", 1979): deviations are summed around a mean, never squares around 0, so that a large offset
costs no digits. Shapes: B rows, N columns.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundup.errors import UserError

MAX_DISTINCT = 1_000_000
Doubles = NDArray[np.float64]


class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of each column, NaN passed over."""

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self.count_N = np.zeros(columns, np.int64)
        self.mean_N, self.squares_N = np.zeros(columns), np.zeros(columns)
        self.min_N, self.max_N = np.full(columns, np.inf), np.full(columns, -np.inf)

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, values_BN: Doubles) -> None:
        """Take in a block of rows. Values whose squares no double holds give a deviation that is not finite."""
        if not len(values_BN):
            return
        self.rows += len(values_BN)
        np.fmin(self.min_N, np.fmin.reduce(values_BN, axis=0), out=self.min_N)
        np.fmax(self.max_N, np.fmax.reduce(values_BN, axis=0), out=self.max_N)
        total_N = values_BN.sum(axis=0)
        if np.isfinite(total_N).all():
            count_N = np.full(len(total_N), len(values_BN))
            mean_N = total_N / len(values_BN)
            deviations_BN = values_BN - mean_N
        else:
            known_BN = ~np.isnan(values_BN)
            count_N = known_BN.sum(axis=0)
            # Divided first, since a sum of large values may not be finite.
            mean_N = np.where(known_BN, values_BN / np.maximum(count_N, 1), 0.0).sum(axis=0)
            deviations_BN = np.where(known_BN, values_BN - mean_N, 0.0)
        squares_N = np.einsum("bn,bn->n", deviations_BN, deviations_BN)
        merged_N = np.maximum(self.count_N + count_N, 1)
        delta_N = mean_N - self.mean_N
        self.mean_N += delta_N * (count_N / merged_N)
        self.squares_N += squares_N + delta_N**2 * (self.count_N * (count_N / merged_N))
        self.count_N += count_N

    @property
    def constant(self) -> NDArray[np.bool_]:
        """[N]"""
        constant: NDArray[np.bool_] = self.min_N == self.max_N
        return constant

    def finish(self, filled: bool) -> tuple[Doubles, Doubles]:
        """Mean and population standard deviation; 0 exactly for constant columns. `filled`: over all rows, missing
        values standing at the mean."""
        rows_N = np.full_like(self.count_N, self.rows) if filled else self.count_N
        mean_N = np.where(self.constant, self.min_N, self.mean_N)
        return mean_N, np.where(self.constant, 0.0, np.sqrt(self.squares_N / np.maximum(rows_N, 1)))


class Categories:
    """Counts of each text of a column. Raises UserError where there are more than a million."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: dict[str, int] = {}

    def add(self, texts: pa.Array) -> None:
        for text, count in zip(*(pc.value_counts(texts.drop_null()).field(f).to_pylist() for f in (0, 1)), strict=True):
            self.counts[text] = self.counts.get(text, 0) + count
        if len(self.counts) > MAX_DISTINCT:
            raise UserError(
                f"column {self.name!r} has more than {MAX_DISTINCT:,} distinct texts",
                where="data",
                expected="a column of numbers or of categories",
                advice="If it holds ids or free text, name it in data.ignore",
            )

    def most_common(self, limit: int) -> tuple[list[str], bool]:
        """The categories, sorted, and whether others share one: the `limit` - 1 commonest where there are more than
        `limit`. Of equally common ones those that sort first."""
        if len(self.counts) <= limit:
            return sorted(self.counts), False
        commonest = sorted(self.counts, key=lambda text: (-self.counts[text], text))
        return sorted(commonest[: limit - 1]), True

    @property
    def commonest(self) -> str | None:
        return min(self.counts, key=lambda text: (-self.counts[text], text)) if self.counts else None
