"""What the stages have made of one document shard, as later stages read it.

Documents are known by number, (shard << 32) | row. Every file of a shard has a row per document, in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundup.data.dedup.arrays import ROW_BITS, ROW_MASK, document_numbers, open_array, shard_slice


def name(shard: int) -> str:
    return f"{shard:05d}"


def place(number: int) -> tuple[int, int]:
    """Shard and row of a document."""
    return number >> ROW_BITS, number & int(ROW_MASK)


@dataclass(frozen=True)
class Found:
    """Pairs that a stage found, in as many files as it had partitions, and the fingerprint of all of them."""

    partitions: int
    output: str


@dataclass(frozen=True)
class Shard:
    """One document shard under the root of all stages."""

    root: Path
    number: int

    def file(self, stage: str, file: str) -> Path:
        return self.root / stage / name(self.number) / file

    def array(self, stage: str, file: str) -> NDArray[Any]:
        """A memory-mapped .npy file."""
        return open_array(self.file(stage, file))

    @property
    def rows(self) -> int:
        return len(self.array("read", "bytes.npy"))

    @property
    def numbers(self) -> NDArray[np.uint64]:
        return document_numbers(self.number, self.rows)

    def decisions(self, columns: list[str] | None = None) -> pa.Table:
        """The last word on each document, once all stages are done."""
        last = ("paragraph_dedup", "line_dedup", "split")
        stage = next(stage for stage in last if self.file(stage, "decisions.parquet").exists())
        return self.table(stage, "decisions.parquet", columns)

    def table(self, stage: str, file: str, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(self.file(stage, file), columns=columns, use_threads=False)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The documents, a row group at a time."""
        return (batch for _, batch in self.chosen(columns, np.ones(self.rows, bool)))

    def chosen(
        self, columns: list[str], which: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        """The documents of which `which`, bool [N], is true, and their rows, int64: of a row group at a time, where it
        has any."""
        with pq.ParquetFile(self.file("read", "documents.parquet"), pre_buffer=False) as file:
            stop = 0
            for group in range(file.metadata.num_row_groups):
                start, stop = stop, stop + file.metadata.row_group(group).num_rows
                rows = start + np.flatnonzero(which[start:stop])
                if len(rows):
                    table = file.read_row_group(group, columns=columns, use_threads=False)
                    if len(rows) < stop - start:
                        table = table.filter(pa.array(which[start:stop]))
                    (batch,) = table.combine_chunks().to_batches()
                    yield rows, batch

    def passed(self, filtered: bool) -> NDArray[np.bool_]:
        """Which documents no rule drops, bool [N]. `filtered`: whether there are rules."""
        return np.asarray(self.array("filter", "reasons.npy")) < 0 if filtered else np.ones(self.rows, bool)

    def left(self, filtered: bool, repeats: int) -> NDArray[np.bool_]:
        """Which documents neither a rule nor exact_dedup drops, bool [N]. `repeats`: partitions of exact_dedup, 0 where
        it is off."""
        left = self.passed(filtered)
        left[self.pairs("exact_dedup", repeats)[0]] = False
        return left

    def result(self, stage: str) -> dict[str, Any]:
        """What the stage's task returned."""
        found: dict[str, Any] = json.loads(self.file(stage, "manifest.json").read_bytes())["result"]
        return found

    def pairs(self, stage: str, partitions: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """From a stage's files of pairs (document, other), each sorted by document: this shard's rows, and the others'
        numbers."""
        found = [np.empty((0, 2), np.uint64)]
        for partition in range(partitions):
            pairs = open_array(self.root / stage / name(partition) / "dropped.npy")
            found.append(np.asarray(pairs[shard_slice(pairs[:, 0], self.number)]))
        mine = np.concatenate(found)
        return (mine[:, 0] & ROW_MASK).astype(np.int64), mine[:, 1]
