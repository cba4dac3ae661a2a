"""Hashes of rows and columns over whole blocks at a time, and the set of rows seen.

Shapes: C columns of 64 bits, B rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

Words = NDArray[np.uint64]
NULL = np.uint64(0x7FF8DEAD0000BEEF)  # stands for a missing value: the bits of a NaN that no file holds
_GOLDEN = 0x9E3779B97F4A7C15
_STRIDE = 64  # columns mixed at a time, so that what is between stays in the cache
_RUN_ROWS = 1 << 23


def mix(words: Words) -> Words:
    """SplitMix64's finaliser: a bijection of 64 bits in which every bit of the result hangs on every bit given."""
    z = words ^ (words >> np.uint64(30))
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _keys(start: int, count: int, stream: int) -> Words:
    """Odd pseudo-random words number `start` to `start + count` of a stream."""
    index = np.arange(start, start + count, dtype=np.uint64) + np.uint64(stream << 56)
    return mix(index * np.uint64(_GOLDEN) + np.uint64(_GOLDEN)) | np.uint64(1)


def text_words(texts: pa.Array) -> Words:
    """[2, B]: 128 bits of each string."""
    coded = texts.dictionary_encode()
    digests = [xxhash.xxh3_128_intdigest(t) for t in coded.dictionary.cast(pa.binary()).to_pylist()]
    words = np.array([[d & (2**64 - 1) for d in digests], [d >> 64 for d in digests]], np.uint64).reshape(2, -1)
    codes = coded.indices.fill_null(len(digests)).to_numpy(zero_copy_only=False)
    return np.concatenate([words, np.full((2, 1), NULL)], axis=1)[:, codes]


class Hasher:
    """128 bits per row, and a running hash of each column over the rows that are kept.

    Both are sums of mixed words times odd keys of their place, modulo 2^64, mixed once more.
    """

    def __init__(self, columns: int) -> None:
        self._row_keys = np.stack([_keys(0, columns, 1), _keys(0, columns, 2)])
        self._columns = np.zeros(columns, np.uint64)
        self._kept = 0

    def rows(self, words_CB: Words) -> tuple[Words, Words, Words]:
        """Two words [B] per row, and the mixed words [C, B] for `keep`."""
        mixed_CB = np.empty_like(words_CB)
        first, second = np.zeros((2, words_CB.shape[1]), np.uint64)
        for start in range(0, len(words_CB), _STRIDE):
            at = slice(start, start + _STRIDE)
            mixed_CB[at] = mix(words_CB[at])
            first += self._row_keys[0, at] @ mixed_CB[at]
            second += self._row_keys[1, at] @ mixed_CB[at]
        return mix(first), mix(second), mixed_CB

    def keep(self, mixed_CB: Words, keep_B: NDArray[np.bool_]) -> None:
        """Take the kept rows of a block into the columns' hashes."""
        weights = np.zeros(len(keep_B), np.uint64)
        count = int(keep_B.sum())
        weights[keep_B] = _keys(self._kept, count, 3)
        self._kept += count
        self._columns += mixed_CB @ weights

    @property
    def columns(self) -> list[int]:
        return [int(word) for word in self._columns]


class Seen:
    """The rows seen so far, as sorted runs of 128-bit hashes: 16 bytes a row. Runs grow by merging, up to a size that
    bounds what merging takes."""

    def __init__(self) -> None:
        self._runs: list[tuple[Words, Words]] = []

    def new(self, first: Words, second: Words) -> NDArray[np.bool_]:
        """Which rows were not seen before, in earlier calls or earlier in this one; from now on they are."""
        order = _order(first, second)
        first, second = first[order], second[order]
        fresh = np.ones(len(order), bool)
        # Sorting is stable: of equal rows the first stays first.
        fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        for run in self._runs:
            fresh &= ~_contained(first, second, *run)
        self._add(first[fresh], second[fresh])
        result = np.empty(len(order), bool)
        result[order] = fresh
        return result

    def _add(self, first: Words, second: Words) -> None:
        if not len(first):
            return
        while self._runs and len(self._runs[-1][0]) <= 2 * len(first) and len(first) < _RUN_ROWS:
            older = self._runs.pop()
            first, second = np.concatenate([older[0], first]), np.concatenate([older[1], second])
            order = _order(first, second)
            first, second = first[order], second[order]
        self._runs.append((first, second))


def _order(first: Words, second: Words) -> NDArray[np.intp]:
    """Sorts by both words, stably."""
    # One key sorts faster than two, sorted runs that follow each other in linear time; equal first words of unequal
    # rows are all but impossible.
    order = np.argsort(first, kind="stable")
    equal = np.nonzero(first[order[1:]] == first[order[:-1]])[0]
    if (second[order[equal + 1]] != second[order[equal]]).any():
        return np.lexsort((second, first))
    return order


def _contained(first: Words, second: Words, run_first: Words, run_second: Words) -> NDArray[np.bool_]:
    """Which of the hashes are in a sorted run."""
    at = np.searchsorted(run_first, first)
    found = np.zeros(len(first), bool)
    open_rows = np.arange(len(first))
    while len(open_rows):
        open_rows = open_rows[at[open_rows] < len(run_first)]
        open_rows = open_rows[run_first[at[open_rows]] == first[open_rows]]
        same = run_second[at[open_rows]] == second[open_rows]
        found[open_rows[same]] = True
        open_rows = open_rows[~same]
        at[open_rows] += 1
    return found


def order_keys(words: Words, seed: int) -> Words:
    """64 bits per row in which the rows are put in a seeded order that hangs on their content only."""
    key = xxhash.xxh3_64_intdigest(b"split", seed=seed)
    return mix(words ^ np.uint64(key))


def as_words(values: NDArray[Any]) -> Words:
    """Numbers as 64 bits, equal for equal numbers (0 and -0 too), `NULL` for NaN."""
    if values.dtype == np.float64:
        words = (values + 0.0).view(np.uint64)
        gone = np.isnan(values)
        return np.where(gone, NULL, words) if gone.any() else words
    return values.astype(np.int64).view(np.uint64)
