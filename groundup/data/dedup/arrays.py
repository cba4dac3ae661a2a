"""Arrays as files: written whole or not at all, read without loading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np

ROW_BITS = 32
ROW_MASK = np.uint64(0xFFFFFFFF)


def save(path: Path, array: np.ndarray[Any, Any]) -> None:
    """`array` as .npy at `path`, which holds either all of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class ArrayWriter:
    """Writes `rows` rows of an array as .npy at `path`, a part at a time (a context manager)."""

    def __init__(self, path: Path, rows: int, columns: int, dtype: Any) -> None:
        self.shape, self.dtype, self.done = (rows, columns), np.dtype(dtype), 0
        self.file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def add(self, part: np.ndarray[Any, Any]) -> None:
        assert part.shape[1:] == self.shape[1:]
        assert part.dtype == self.dtype
        self.file.write(np.ascontiguousarray(part).data)
        self.done += len(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        assert kind is not None or self.done == self.shape[0]


def open_array(path: Path) -> np.ndarray[Any, Any]:
    """The array in the .npy file, mapped for reading; an empty one is loaded, since nothing can't be mapped."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except ValueError:
        return np.asarray(np.load(path))


def document_numbers(shard: int, rows: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The numbers of a shard's documents, (shard << 32) | row, uint64 [rows]."""
    return np.arange(rows, dtype=np.uint64) | np.uint64(shard << ROW_BITS)


def shard_slice(documents: np.ndarray[Any, Any], shard: int) -> slice:
    """Where one shard's documents stand in a sorted array of document numbers."""
    low, high = (np.uint64(s << ROW_BITS) for s in (shard, shard + 1))
    start, end = np.searchsorted(documents, np.array([low, high], np.uint64))
    return slice(int(start), int(end))


def partition_bounds(partition: int, partitions: int) -> tuple[int, int]:
    """The first 64-bit hash of a partition and the first beyond it: `partitions` equal ranges of all hashes."""
    return (partition << 64) // partitions, ((partition + 1) << 64) // partitions


def partition_slice(hashes: np.ndarray[Any, Any], partition: int, partitions: int) -> slice:
    """Where one partition's hashes stand in a sorted uint64 array, such as a mapped one, of which little is read."""
    low, high = partition_bounds(partition, partitions)
    start = int(np.searchsorted(hashes, np.uint64(low)))
    end = len(hashes) if partition == partitions - 1 else int(np.searchsorted(hashes, np.uint64(high)))
    return slice(start, end)


def partitions_for(entries: int, bytes_per_entry: int, memory: int) -> int:
    """How many equal partitions of `entries` hashed entries each fit into `memory` bytes.

    A tenth is left over, since hashes don't fall into partitions quite evenly.
    """
    return max(1, -(-entries * bytes_per_entry * 11 // (memory * 10)))
