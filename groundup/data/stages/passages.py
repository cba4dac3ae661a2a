"""Stages paragraph_dedup and line_dedup, of which a recipe has one: paragraphs or lines that stand in the kept
documents more than once go, but for the first, and with them the documents of which nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundup.data.dedup.arrays import ROW_BITS, partitions_for, save
from groundup.data.dedup.exact import BYTES_PER_ENTRY, duplicates, scatter
from groundup.data.dedup.paragraphs import LINE, PARAGRAPH, drop_passages, passage_hashes
from groundup.data.execute.task import Done, Task
from groundup.data.stages import decide
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard, name
from groundup.rundir import fingerprint

UNITS = {"line": LINE, "paragraph": PARAGRAPH}


@dataclass(frozen=True)
class Cut:
    """Which passages are left out: those found in so many partitions. `unit`: one of UNITS; `shortest`: characters of a
    passage that is looked at."""

    partitions: int
    unit: str
    shortest: int


def stage_of(unit: str) -> str:
    return f"{unit}_dedup"


def reason_of(unit: str) -> str:
    """Why a document is dropped of which nothing is left."""
    return f"repeated_{unit}s"


def cut_column(unit: str) -> str:
    """The column of decisions.parquet that tells how many were cut out of a document; `bytes_cut` tells their bytes."""
    return f"{unit}s_cut"


def run(
    stages: Stages, unit: str, shortest: int, read: Sequence[Done], split: Sequence[Done], memory: int
) -> tuple[list[Done], Cut, str]:
    """Do the stage; of each shard what is left, what is cut, and the fingerprint of that. `unit`, `shortest`: see
    `Cut`."""
    stage = stage_of(unit)
    work = f"{__name__}:scatter_shard"
    passages = {"unit": unit, "shortest": shortest}
    tasks = [
        Task("passage_hashes", done.name, work, {"shard": shard, **passages}, (done.output,), _kept(done))
        for shard, done in enumerate(split)
    ]
    scattered = stages.run(tasks, stage)
    partitions = partitions_for(sum(done.result["entries"] for done in scattered), BYTES_PER_ENTRY, memory)
    hashes = fingerprint([done.output for done in scattered])
    arguments = {"shards": len(split), "partitions": partitions}
    size = sum(map(_kept, split)) // partitions
    tasks = [
        Task("passages", name(part), f"{__name__}:find_repeats", {"partition": part, **arguments}, (hashes,), size)
        for part in range(partitions)
    ]
    found = fingerprint([done.output for done in stages.run(tasks, stage)])
    tasks = [
        Task(
            stage,
            done.name,
            f"{__name__}:decide_shard",
            {"shard": shard, "partitions": partitions, "unit": unit},
            (found, scattered[shard].output, done.output, read[shard].output),
            _kept(done),
        )
        for shard, done in enumerate(split)
    ]
    return stages.run(tasks, stage), Cut(partitions, unit, shortest), found


def account(stages: Stages, unit: str, split: Sequence[Done], left: Sequence[Done]) -> None:
    """Enter what the stage cut and dropped."""
    for before, after in zip(split, left, strict=True):
        stages[stage_of(unit)].count(decide.total(before), decide.total(after), after.result["dropped"])


def _kept(done: Done) -> int:
    return decide.total(done)["bytes"]


def scatter_shard(out: Path, root: Path, shard: int, unit: str, shortest: int) -> dict[str, Any]:
    """Write hashes.npy: hashes and numbers, sorted, of the passages of the documents that are kept; passages.npy, int64
    [M, 2], of each of them its document's row and its bytes, in the order of the texts."""
    here = Shard(root, shard)
    kept = np.asarray(here.table("split", "decisions.parquet", ["reason"])["reason"].is_null())
    hashes, passages = [np.empty((0, 2), np.uint64)], [np.empty((0, 2), np.int64)]
    for rows, batch in here.chosen(["text"], kept):
        found, sizes, counts = passage_hashes(batch.column("text"), UNITS[unit], shortest)
        hashes.append(found)
        passages.append(np.stack([np.repeat(rows, counts), sizes], axis=1))
    found = np.concatenate(hashes)
    numbers = np.arange(len(found), dtype=np.uint64) + np.uint64(shard << ROW_BITS)
    scatter(found, numbers, out / "hashes.npy")
    save(out / "passages.npy", np.concatenate(passages))
    return {"entries": len(found)}


def find_repeats(out: Path, root: Path, partition: int, shards: int, partitions: int) -> dict[str, Any]:
    """Write dropped.npy: pairs (passage, the first like it)."""
    files = [Shard(root, shard).file("passage_hashes", "hashes.npy") for shard in range(shards)]
    pairs = duplicates(files, partition, partitions)
    save(out / "dropped.npy", pairs)
    return {"pairs": len(pairs)}


def decide_shard(out: Path, root: Path, shard: int, partitions: int, unit: str) -> dict[str, Any]:
    """Write decisions.parquet, with what is cut out of each document; documents and bytes left of each part, and how
    many documents were dropped."""
    here = Shard(root, shard)
    sizes = np.asarray(here.array("read", "bytes.npy"))
    gone = here.array("passage_hashes", "passages.npy")[here.pairs("passages", partitions)[0]]
    passages = np.bincount(gone[:, 0], minlength=len(sizes)).astype(np.int32)
    lost = np.bincount(gone[:, 0], gone[:, 1], minlength=len(sizes)).astype(np.int64)
    before = here.table("split", "decisions.parquet")
    codes, names = decide.codes_of(before["reason"])
    parts, _ = decide.codes_of(before["split"], list(decide.SPLITS))
    emptied = (codes < 0) & (sizes == lost)
    codes[emptied], parts[emptied] = len(names), -1
    schema = pa.schema([*decide.DECISIONS, (cut_column(unit), pa.int32()), ("bytes_cut", pa.int64())])
    columns = [before["twin"], decide.dictionary(parts, list(decide.SPLITS)), pa.array(passages), pa.array(lost)]
    decide.save_decisions(out, schema, codes, [*names, reason_of(unit)], *columns)
    dropped = {reason_of(unit): int(emptied.sum())} if emptied.any() else {}
    return {"splits": decide.part_counts(sizes - lost, parts), "dropped": dropped}


class Passages:
    """The passages of a shard's documents of which `chosen`, bool [N], is true; all of these must be kept."""

    def __init__(self, here: Shard, cut: Cut, chosen: NDArray[np.bool_]) -> None:
        self.cut = cut
        rows = np.asarray(here.array("passage_hashes", "passages.npy")[:, 0])
        gone = np.zeros(len(rows), bool)
        gone[here.pairs("passages", cut.partitions)[0]] = True
        mine = chosen[rows]
        self.rows, self.gone = rows[mine], gone[mine]

    def cut_out(self, batch: pa.RecordBatch, start: int, stop: int) -> pa.RecordBatch:
        """The chosen documents of rows [start, stop), which `batch` holds, without the passages that stand elsewhere
        too."""
        begin, end = np.searchsorted(self.rows, [start, stop])
        gone = self.gone[begin:end]
        if not gone.any():
            return batch
        place = batch.schema.get_field_index("text")
        text, _ = drop_passages(batch.column(place), UNITS[self.cut.unit], self.cut.shortest, gone)
        return batch.set_column(place, "text", text)
