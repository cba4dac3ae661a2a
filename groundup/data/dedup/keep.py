"""Which document of a cluster stays: the first, the longest, or the best by a tag."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.dedup.arrays import document_numbers, open_array
from groundup.data.dedup.components import shard_offsets, to_documents
from groundup.data.jit import kernel


def choose_kept(roots: Path, values: Iterable[np.ndarray[Any, Any]], path: Path) -> None:
    """Write, at each root's place, the dense number of the document that stays of its cluster; uint32 or uint64.

    `roots` is the file of `components`; `values` gives an array a shard, in order: lengths for "longest", a tag for
    "best". The greatest stays, of equal ones the first; NaN is less than all numbers. The rule "first" needs no such
    file: the root itself stays. Raises ValueError where there are not as many values as documents.
    """
    all_roots = open_array(roots)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, scratch = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".values"))
    try:
        shape = (max(1, len(all_roots)),)
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=all_roots.dtype, shape=shape)
        best = np.memmap(scratch, np.float64, "w+", shape=shape)
        start = 0
        for shard_values in values:
            end = start + len(shard_values)
            if end > len(all_roots):
                raise ValueError(f"more values than the {len(all_roots)} documents")
            numbers = np.ascontiguousarray(shard_values, np.float64)
            _choose(all_roots[start:end], numbers, start, np.asarray(mapped), np.asarray(best))
            start = end
        if start != len(all_roots):
            raise ValueError(f"{start} values for {len(all_roots)} documents")
        mapped.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        scratch.unlink(missing_ok=True)


@kernel
def _choose(roots: Any, values: Any, start: int, kept: Any, best: Any) -> None:
    for i in range(len(roots)):
        root, value = roots[i], values[i]
        if np.isnan(value):
            value = -np.inf
        # The root is its cluster's first document, so that it comes before all others.
        if root == start + i or value > best[root]:
            kept[root] = start + i
            best[root] = value


def dropped(roots: Path, kept: Path | None, counts: Sequence[int], shard: int) -> np.ndarray[Any, Any]:
    """(document, twin) for each document of a shard that goes; its twin is the one of its cluster that stays.

    uint64 [D, 2] document numbers. `kept` is the file of `choose_kept`, or None for the rule "first".
    """
    offsets = shard_offsets(counts)
    dense_roots = open_array(roots)[offsets[shard] : offsets[shard + 1]]
    stays = dense_roots.astype(np.int64) if kept is None else open_array(kept)[dense_roots].astype(np.int64)
    goes = np.flatnonzero(stays != np.arange(offsets[shard], offsets[shard + 1]))
    numbers = document_numbers(shard, len(dense_roots))[goes]
    return np.stack([numbers, to_documents(stays[goes], offsets)], axis=1)
