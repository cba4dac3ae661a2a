"""Clusters: which documents hang together by edges. Union-find over a mapped file, so that memory holds no more of the
corpus than the pages in use.

Documents of all shards are numbered densely here: a shard's first one stands at the sum of the row counts before it.
The root of a cluster is its smallest document, whatever the order of the edges.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.dedup.arrays import ROW_BITS, ROW_MASK, open_array
from groundup.data.jit import kernel

_EDGES = 1 << 18
_ROWS = 1 << 20


def shard_offsets(counts: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each shard begins in the dense numbering, and where the last ends; int64 [shards + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))])


def to_dense(documents: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Document numbers as dense ones, int64."""
    shards = (documents >> np.uint64(ROW_BITS)).astype(np.int64)
    return np.asarray(offsets[shards] + (documents & ROW_MASK).astype(np.int64))


def to_documents(dense: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Dense numbers as document numbers, uint64."""
    shards = np.searchsorted(offsets, dense, side="right") - 1
    return np.asarray((shards.astype(np.uint64) << np.uint64(ROW_BITS)) | (dense - offsets[shards]).astype(np.uint64))


def components(edge_files: Iterable[Path], counts: Sequence[int], path: Path) -> None:
    """Write each document's root to `path`, as an array over the dense numbers (uint32 or uint64 [documents]).

    Edge files hold uint64 [E, 2] document numbers; `counts` are the shards' rows. Raises ValueError at an edge to a
    document that isn't there.
    """
    offsets = shard_offsets(counts)
    total = int(offsets[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    kind = np.uint32 if total < 1 << 32 else np.uint64
    try:
        if total == 0:
            with temporary.open("wb") as file:
                np.lib.format.write_array(file, np.empty(0, kind), allow_pickle=False)
        else:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=(total,))
            parents = np.asarray(mapped)
            for start in range(0, total, _ROWS):
                parents[start : start + _ROWS] = np.arange(start, min(start + _ROWS, total))
            for edge_file in edge_files:
                _unite_file(parents, edge_file, offsets)
            _flatten(parents)
            mapped.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _unite_file(parents: np.ndarray[Any, Any], edge_file: Path, offsets: np.ndarray[Any, Any]) -> None:
    edges = open_array(edge_file)
    for start in range(0, len(edges), _EDGES):
        part = edges[start : start + _EDGES]
        shards = part >> np.uint64(ROW_BITS)
        if int(shards.max()) >= len(offsets) - 1:
            raise ValueError(f"{edge_file} has an edge to shard {shards.max()}; there are {len(offsets) - 1}")
        if np.any((part & ROW_MASK).astype(np.int64) >= np.diff(offsets)[shards.astype(np.int64)]):
            raise ValueError(f"{edge_file} has an edge beyond a shard's last document")
        _unite(parents, to_dense(part, offsets))


def cluster_roots(path: Path, counts: Sequence[int], shard: int) -> np.ndarray[Any, Any]:
    """The root of each document of a shard, as document numbers, uint64 [rows]: its own where it is alone or the root
    itself."""
    offsets = shard_offsets(counts)
    dense = open_array(path)[offsets[shard] : offsets[shard + 1]].astype(np.int64)
    return to_documents(dense, offsets)


@kernel
def _root(parents: Any, i: Any) -> Any:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@kernel
def _unite(parents: Any, edges: Any) -> None:
    for e in range(len(edges)):
        first, second = _root(parents, edges[e, 0]), _root(parents, edges[e, 1])
        if first < second:
            parents[second] = first
        elif second < first:
            parents[first] = second


@kernel
def _flatten(parents: Any) -> None:
    """A parent is never greater than its child, so that one pass in order leads every document to its root."""
    for i in range(len(parents)):
        parents[i] = parents[parents[i]]
