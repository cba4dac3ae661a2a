"""Bands: two documents are compared where their signatures agree in all rows of at least one band.

With similarity J, b bands of r rows let a pair through with probability 1 - (1 - J^r)^b. Which b and r is derived from
the threshold and the number of permutations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.dedup.arrays import ArrayWriter
from groundup.data.dedup.signatures import NO_SHINGLE
from groundup.data.jit import kernel
from groundup.data.kernels import mix
from groundup.errors import UserError

# The key, in every band, of a document without a signature.
NO_KEY = np.uint64(0xFFFFFFFFFFFFFFFF)

# A pair so much above the threshold must be compared with the first probability, and joined with the second.
MARGIN = 0.1
RECALL = 0.98
JOINED = 0.96
# The share of pairs below the threshold that may be joined, where similarities spread evenly.
FALSE_JOINS = 0.005
_STEPS = 200


@dataclass(frozen=True)
class Banding:
    """`bands` of `rows` entries each, of signatures of `permutations` entries; a pair that shares a band is joined if
    at least `matches` entries of the signatures are equal."""

    permutations: int
    bands: int
    rows: int
    matches: int

    def compared(self, similarity: float) -> float:
        """The probability that a pair of this similarity shares a band."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)

    def joined(self, similarity: float) -> float:
        """The probability that a pair of this similarity shares a band and has `matches` equal entries."""
        return float(_binomial(self.permutations, similarity) @ self._sharing())

    def _sharing(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """By the number of equal entries, whether they are enough times the probability that they fill a band."""
        sharing = _band_filled(self.permutations, self.bands, self.rows).copy()
        sharing[: self.matches] = 0
        return sharing


@cache
def _band_filled(entries: int, bands: int, rows: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The probability that k equal entries, anywhere among `entries`, fill one of the bands, for k from 0 to entries.

    By inclusion and exclusion over the bands that are filled, in whole numbers, since the terms alternate.
    """
    filled = []
    for k in range(entries + 1):
        ways = sum(
            (-1) ** (j + 1) * comb(bands, j) * comb(entries - j * rows, k - j * rows)
            for j in range(1, min(bands, k // rows) + 1)
        )
        filled.append(ways / comb(entries, k))
    return np.array(filled)


def _binomial(n: int, p: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The probabilities of 0 to n successes."""
    return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def choose_bands(threshold: float, permutations: int) -> Banding:
    """The banding for near duplicates at `threshold`: see the constants above.

    The bands and rows are those that compare the fewest pairs below the threshold, counted evenly over all
    similarities, of those that compare a pair MARGIN above it with probability RECALL at least. The equal entries
    wanted are the threshold's share, and more where else more than FALSE_JOINS of the pairs below were joined, as far
    as JOINED allows.

    Where MARGIN above the threshold is beyond 1, half the way from the threshold to 1 stands for it.
    Raises UserError if the threshold isn't between 0 and 1, or no banding of so few permutations has this recall.
    """
    if not 0 < threshold < 1:
        raise UserError("the near-duplicate threshold is no similarity", expected="a number between 0 and 1")
    above = threshold + min(MARGIN, (1 - threshold) / 2)
    below = (np.arange(_STEPS) + 0.5) / _STEPS * threshold
    best: tuple[float, int, int] | None = None
    for rows in range(1, permutations + 1):
        bands = permutations // rows
        # The fewest bands that suffice.
        while bands > 1 and 1 - (1 - above**rows) ** (bands - 1) >= RECALL:
            bands -= 1
        if 1 - (1 - above**rows) ** bands < RECALL:
            continue
        false = float(np.mean(1 - (1 - below**rows) ** bands))
        if best is None or false < best[0]:
            best = (false, bands, rows)
    if best is None:
        raise UserError(
            f"{permutations} permutations are too few to find near duplicates at threshold {threshold}",
            expected=f"enough for a recall of {RECALL} at similarity {above:.2f}",
            advice="Raise permutations (128 is usual) or the threshold",
        )
    banding = Banding(permutations, best[1], best[2], int(np.ceil(threshold * permutations - 1e-9)))
    below_chances = np.stack([_binomial(permutations, j) for j in below])
    while banding.matches < permutations:
        stricter = replace(banding, matches=banding.matches + 1)
        if np.mean(below_chances @ banding._sharing()) <= FALSE_JOINS or stricter.joined(above) < JOINED:
            break
        banding = stricter
    return banding


def band_keys(signatures: np.ndarray[Any, Any], band: int, rows: int) -> np.ndarray[Any, Any]:
    """The key of each document in a band, uint64 [N]: equal where all entries of the band are.

    Documents without a shingle have NO_KEY.
    """
    keys = np.empty(len(signatures), np.uint64)
    _band_keys(signatures, band, rows, keys)
    return keys


@kernel
def _band_keys(signatures: Any, band: int, rows: int, keys: Any) -> None:
    for d in range(len(signatures)):
        key = mix(np.uint64(band + 1))
        for p in range(band * rows, (band + 1) * rows):
            key = mix(key ^ np.uint64(signatures[d, p]))
        keys[d] = min(key, NO_KEY - np.uint64(1))
        present = False
        for p in range(signatures.shape[1]):
            if signatures[d, p] != NO_SHINGLE:
                present = True
                break
        if not present:
            keys[d] = NO_KEY


def scatter_bands(
    signatures: np.ndarray[Any, Any],
    chosen: np.ndarray[Any, Any],
    documents: np.ndarray[Any, Any],
    banding: tuple[int, int],
    path: Path,
) -> None:
    """Write a shard's band keys and document numbers, sorted by key in each band, to `path`.

    `signatures`: uint32 [N, permutations], may be mapped; `chosen`: which of them, bool [N]; `documents`: whose they
    are, uint64 [N]; `banding`: bands and rows. The file holds uint64 [bands * 2, M], a band's keys and then its
    documents, without those that have no key: 16 bytes a document and band. So a band's partition, a range of keys, is
    a slice (`arrays.partition_slice`). Memory: 40 bytes a document, one band at a time.
    """
    bands, rows = banding
    present = chosen & (band_keys(signatures, 0, rows) != NO_KEY)
    documents = documents[present]
    with ArrayWriter(path, 2 * bands, len(documents), np.uint64) as out:
        for band in range(bands):
            keys = band_keys(signatures, band, rows)[present]
            order = np.argsort(keys, kind="stable")
            out.add(keys[order][None])
            out.add(documents[order][None])
