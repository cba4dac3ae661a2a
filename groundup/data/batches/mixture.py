"""Which source a sample comes from, in closed form and in exact proportions.

Of a cycle of N samples, source s has c_s. Its j-th lies at (j + 1/2) / c_s of the cycle, and all are taken in the order
of these places. So over any stretch of samples a source has its share, to within one or two per source, and the n-th
place is found by bisection, nothing is stored.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_CYCLE = 1 << 40  # samples of a cycle of weights: shares are exact to a part in 10^12


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _at_most(count: int, place: float) -> int:
    """How many of a source's places are at most `place`; the places are as (j + 1/2) / count is rounded."""
    j = int(np.floor(place * count + 0.5))
    while j > 0 and (j - 0.5) / count > place:
        j -= 1
    while j < count and (j + 0.5) / count <= place:
        j += 1
    return j


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _locate(
    slots: NDArray[np.int64], counts: NDArray[np.int64], source: NDArray[np.int64], rank: NDArray[np.int64]
) -> None:
    total = counts.sum()
    sources = len(counts)
    for i in range(len(slots)):
        wanted = slots[i] + 1
        # Each source is within one of its share, so the place is near.
        low, high = max(0.0, (wanted - sources - 2) / total), min(1.0, (wanted + sources + 2) / total)
        # The smallest place with `wanted` places up to it: between two neighbours, or where one is left.
        while True:
            middle = low + (high - low) / 2
            if middle <= low or middle >= high:
                break
            found = 0
            for s in range(sources):
                found += _at_most(counts[s], middle)
            if found >= wanted:
                high = middle
            else:
                low = middle
        # Places equal to `high` are of different sources, in their order.
        before = 0
        for s in range(sources):
            before += _at_most(counts[s], low)
        for s in range(sources):
            first = _at_most(counts[s], low)
            here = _at_most(counts[s], high) - first
            if before + here >= wanted:
                source[i], rank[i] = s, first + wanted - before - 1
                break
            before += here


class Mixture:
    """Closed form of sample -> (source, how many samples of that source came before).

    `counts`: samples of each source in a cycle, positive.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.cycle = int(self.counts.sum())

    @classmethod
    def of_weights(cls, weights: list[float]) -> Mixture:
        """Shares relative to one another."""
        share = np.asarray(weights, float) / sum(weights)
        return cls(np.maximum(1, np.rint(share * _CYCLE)).astype(np.int64))

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cycle, slot = np.divmod(samples, self.cycle)
        source, rank = np.empty_like(slot), np.empty_like(slot)
        _locate(slot, self.counts, source, rank)
        return source, cycle * self.counts[source] + rank
