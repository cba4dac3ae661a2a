"""From the documents that share a band's key to edges between those whose signatures are alike.

Within a group of documents with one key, in the order of their numbers, each is compared with earlier ones, except
with those it is already linked to through others. In groups of up to REPRESENTATIVES documents that is every earlier
one, so that no pair of the group is lost. In larger groups the first half as many stay to be compared with, and after
them each that linked to none, for which, when they are too many, the oldest goes. So the work is bounded by
REPRESENTATIVES comparisons a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.dedup.arrays import ROW_BITS, ROW_MASK, open_array, partition_slice
from groundup.data.dedup.bands import Banding
from groundup.data.dedup.signatures import equal_entries
from groundup.data.jit import kernel

REPRESENTATIVES = 64
# What a band's partition takes at its peak for each entry: keys and documents, their order, and sorted copies.
BYTES_PER_ENTRY = 64


def band_edges(
    files: Sequence[Path],
    signatures: Sequence[Path],
    banding: Banding,
    band: int,
    partition: int,
    partitions: int,
    rows: Sequence[Path] = (),
    gather_bytes: int = 64 << 20,
) -> np.ndarray[Any, Any]:
    """The edges of one partition of one band, uint64 [E, 2]: (first, other), first < other, sorted.

    `files` are those of `scatter_bands`, in any order; `signatures[shard]` is the .npy of a shard's signatures,
    uint32 [M, permutations], and `rows[shard]` that of the rows that they are of, int64 [M], rising; without `rows` a
    shard has one of each row.
    Memory: BYTES_PER_ENTRY for each entry of the partition, and `gather_bytes` of signatures at a time.
    """
    keys, documents = _partition(files, band, partition, partitions)
    members, bounds = groups(keys, documents)
    del keys, documents
    chunk = max(2 * REPRESENTATIVES, gather_bytes // (4 * banding.permutations))
    found = []
    for part, ends in _chunks(members, bounds, chunk):
        numbers, places = np.unique(part, return_inverse=True)
        signed = gather(signatures, rows, numbers, banding.permutations)
        found.append(part[_link(signed, places, ends, banding.matches)])
    edges = np.concatenate(found) if found else np.empty((0, 2), np.uint64)
    return np.asarray(edges[np.lexsort((edges[:, 1], edges[:, 0]))])


def _partition(
    files: Sequence[Path], band: int, partition: int, partitions: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    parts = []
    for path in files:
        entries = open_array(path)[2 * band : 2 * band + 2]
        parts.append(np.array(entries[:, partition_slice(entries[0], partition, partitions)]))
    joined = np.concatenate(parts, axis=1) if parts else np.empty((2, 0), np.uint64)
    return joined[0], joined[1]


def groups(
    keys: np.ndarray[Any, Any], documents: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The documents that share their key with another: members, uint64 [M], by key and number, and where each group
    begins and the last ends, int64 [G + 1]."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    del ordered
    grouped = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]])) if len(keys) else order
    places = order[grouped]
    del order, same
    keys, members = keys[places], documents[places]
    within = np.lexsort((members, keys))
    keys, members = keys[within], members[within]
    begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else grouped
    return members, np.append(begins, len(members)).astype(np.int64)


def _chunks(
    members: np.ndarray[Any, Any], bounds: np.ndarray[Any, Any], size: int
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Whole groups, about `size` documents at a time; a group beyond that in pieces, each behind the group's first
    REPRESENTATIVES documents."""
    group = 0
    while group < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[group] + size, side="right")) - 1
        if last > group:
            yield members[bounds[group] : bounds[last]], bounds[group : last + 1] - bounds[group]
            group = last
            continue
        whole = members[bounds[group] : bounds[group + 1]]
        heads, step = whole[:REPRESENTATIVES], size - REPRESENTATIVES
        for start in range(REPRESENTATIVES, len(whole), step):
            piece = np.concatenate([heads, whole[start : start + step]])
            yield piece, np.array([0, len(piece)])
        group += 1


def gather(
    signatures: Sequence[Path], rows: Sequence[Path], documents: np.ndarray[Any, Any], permutations: int
) -> np.ndarray[Any, Any]:
    """The signatures of documents given by sorted numbers, uint32 [N, permutations], a shard's file open at a time."""
    out = np.empty((len(documents), permutations), np.uint32)
    shards = (documents >> np.uint64(ROW_BITS)).astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], shards[1:] != shards[:-1]])) if len(shards) else shards
    for start, end in zip(starts, np.append(starts[1:], len(documents)), strict=True):
        shard, wanted = shards[start], (documents[start:end] & ROW_MASK).astype(np.int64)
        places = np.searchsorted(open_array(rows[shard]), wanted) if rows else wanted
        out[start:end] = open_array(signatures[shard])[places]
    return out


def _link(rows: Any, places: Any, bounds: Any, matches: int) -> np.ndarray[Any, Any]:
    """Edges as positions in `places`, int64 [E, 2]."""
    edges = np.empty((len(places), 2), np.int64)
    count = _link_groups(rows, places, bounds, matches, edges)
    return edges[:count]


@kernel
def _root(parents: Any, i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@kernel
def _link_groups(rows: Any, places: Any, bounds: Any, matches: int, edges: Any) -> int:
    """A forest has fewer edges than documents, so `edges` has room."""
    parents = np.arange(len(places))
    compared = np.empty(REPRESENTATIVES, np.int64)
    count = 0
    for g in range(len(bounds) - 1):
        held, oldest = 0, 0
        small = bounds[g + 1] - bounds[g] <= REPRESENTATIVES
        for i in range(bounds[g], bounds[g + 1]):
            alone = True
            for c in range(held):
                other = compared[c]
                first, second = _root(parents, other), _root(parents, i)
                if first == second or equal_entries(rows[places[other]], rows[places[i]]) < matches:
                    continue
                parents[max(first, second)] = min(first, second)
                edges[count, 0], edges[count, 1] = other, i
                count += 1
                alone = False
            if held < REPRESENTATIVES and (small or alone or i - bounds[g] < REPRESENTATIVES // 2):
                compared[held] = i
                held += 1
            elif alone:
                compared[oldest] = i
                oldest = (oldest + 1) % REPRESENTATIVES
    return count
