"""Which documents repeat another one's bytes, found by sorting hashes partition by partition.

Each shard leaves one file with its hashes in order (`scatter`). A partition is a range of hashes, hence a slice of each
file: there are as many files as shards, and how many partitions there are is chosen when all hashes are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.dedup.arrays import open_array, partition_slice, save

# What `duplicates` takes at its peak for each entry of its partition: three columns, their sorted order, the copy of
# a column in that order, and, for what repeats, the keys and orders of the second sort.
BYTES_PER_ENTRY = 96


def scatter(hashes: np.ndarray[Any, Any], documents: np.ndarray[Any, Any], path: Path) -> None:
    """Write a shard's hashes (uint64 [N, 2]) and document numbers (uint64 [N]) to `path`, sorted.

    The file holds uint64 [3, N]: high halves, low halves, documents; by hash, then document.
    """
    high, low = np.ascontiguousarray(hashes[:, 0]), np.ascontiguousarray(hashes[:, 1])
    order = sorted_order(high, low, documents)
    save(path, np.stack([high[order], low[order], documents[order]]))


def duplicates(files: Sequence[Path], partition: int, partitions: int) -> np.ndarray[Any, Any]:
    """(document, twin) of every document in this partition that repeats a document with a smaller number.

    uint64 [D, 2], by document; the twin is the smallest of its kind. Bounded by the partition: see `partitions_for` and
    BYTES_PER_ENTRY.
    """
    parts = []
    for path in files:
        entries = open_array(path)
        parts.append(np.array(entries[:, partition_slice(entries[0], partition, partitions)]))
    high, low, documents = np.concatenate(parts, axis=1) if parts else np.empty((3, 0), np.uint64)
    del parts
    order = sorted_order(high, low, documents)
    high, low, documents = high[order], low[order], documents[order]
    del order
    repeats = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1])) + 1
    if not len(repeats):
        return np.empty((0, 2), np.uint64)
    # The start of a run is the last entry that repeats nothing.
    begins = np.concatenate([[True], np.diff(repeats) > 1])
    starts = (repeats[begins] - 1)[np.cumsum(begins) - 1]
    pairs = np.stack([documents[repeats], documents[starts]], axis=1)
    return np.asarray(pairs[np.argsort(pairs[:, 0])])


def sorted_order(
    high: np.ndarray[Any, Any], low: np.ndarray[Any, Any], last: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """The order by `high`, then `low`, then `last`; faster than lexsort where few of `high` are equal."""
    order = np.argsort(high)
    tied = high[order]
    same = tied[1:] == tied[:-1]
    places = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]])) if len(high) else order
    if len(places):
        members = order[places]
        order[places] = members[np.lexsort((last[members], low[members], high[members]))]
    return order
