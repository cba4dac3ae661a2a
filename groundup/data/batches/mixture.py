"""Which source a sample comes from, in closed form and in exact proportions.

Of a cycle of N samples, source s has c_s. Its j-th lies at (j + 1/2) / c_s of the cycle, and all are taken in the order
of these places. So over any stretch of samples a source has its share, to within one or two per source, and the n-th
place is found by bisection, nothing is stored.

Shapes: N samples, S sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CYCLE = 1 << 40  # samples of a cycle of weights: shares are exact to a part in 10^12


def _at_most(counts_S: NDArray[np.int64], place_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of each source's places are at most `place`, [N, S]; the places are as (j + 1/2) / count is rounded."""
    place_N1 = place_N[:, None]
    j_NS = np.floor(place_N1 * counts_S + 0.5).astype(np.int64)
    while (more := (j_NS > 0) & ((j_NS - 0.5) / counts_S > place_N1)).any():
        j_NS -= more
    while (less := (j_NS < counts_S) & ((j_NS + 0.5) / counts_S <= place_N1)).any():
        j_NS += less
    return j_NS


def _locate(slots_N: NDArray[np.int64], counts_S: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Source of each slot of a cycle, and how many of that source's places come before."""
    total, sources = int(counts_S.sum()), len(counts_S)
    wanted_N = slots_N + 1
    # Each source is within one of its share, so the place is near.
    low_N = np.maximum(0.0, (wanted_N - sources - 2) / total)
    high_N = np.minimum(1.0, (wanted_N + sources + 2) / total)
    # The smallest place with `wanted` places up to it: between two neighbours, or where one is left.
    open_ = np.arange(len(slots_N))
    while len(open_):
        low, high = low_N[open_], high_N[open_]
        middle = low + (high - low) / 2
        between = (middle > low) & (middle < high)
        open_, middle = open_[between], middle[between]
        reached = _at_most(counts_S, middle).sum(1) >= wanted_N[open_]
        high_N[open_[reached]] = middle[reached]
        low_N[open_[~reached]] = middle[~reached]
    # Places equal to `high` are of different sources, in their order.
    first_NS = _at_most(counts_S, low_N)
    here_NS = _at_most(counts_S, high_N) - first_NS
    missing_N = wanted_N - first_NS.sum(1)
    upto_NS = np.cumsum(here_NS, 1)
    source_N = (upto_NS >= missing_N[:, None]).argmax(1)
    rows = np.arange(len(slots_N))
    before_N = upto_NS[rows, source_N] - here_NS[rows, source_N]
    return source_N, first_NS[rows, source_N] + missing_N - before_N - 1


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
        source, rank = _locate(slot, self.counts)
        return source, cycle * self.counts[source] + rank
