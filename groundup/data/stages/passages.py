"""Stage paragraph_dedup: paragraphs that stand in the kept documents more than once go, but for the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundup.data.dedup.arrays import ROW_BITS, partitions_for, save
from groundup.data.dedup.exact import BYTES_PER_ENTRY, duplicates, scatter
from groundup.data.dedup.paragraphs import PARAGRAPH, drop_passages, passage_hashes
from groundup.data.execute.task import Done, Task
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard, name
from groundup.rundir import fingerprint


def run(stages: Stages, shortest: int, split: Sequence[Done], memory: int) -> str:
    """Do the stage; fingerprint of what it found. `shortest`: characters of a paragraph that is looked at."""
    work = f"{__name__}:scatter_shard"
    tasks = [
        Task("passage_hashes", done.name, work, {"shard": shard, "shortest": shortest}, (done.output,), _kept(done))
        for shard, done in enumerate(split)
    ]
    scattered = stages.run(tasks, "paragraph_dedup")
    partitions = partitions_for(sum(done.result["entries"] for done in scattered), BYTES_PER_ENTRY, memory)
    outputs = tuple(done.output for done in scattered)
    arguments = {"shards": len(split), "partitions": partitions}
    tasks = [
        Task("passages", name(part), f"{__name__}:find_repeats", {"partition": part, **arguments}, outputs)
        for part in range(partitions)
    ]
    return fingerprint([done.output for done in stages.run(tasks, "paragraph_dedup")])


def _kept(done: Done) -> int:
    return sum(part["bytes"] for part in done.result["splits"].values())


def scatter_shard(out: Path, root: Path, shard: int, shortest: int) -> dict[str, Any]:
    """Write hashes.npy: hashes and numbers, sorted, of the passages of the documents that are kept."""
    here = Shard(root, shard)
    kept, hashes, numbers = here.kept, [np.empty((0, 2), np.uint64)], [np.empty(0, np.uint64)]
    row = passage = 0
    for batch in here.batches(["text"]):
        found, counts = passage_hashes(batch.column("text"), PARAGRAPH, shortest)
        mine = np.repeat(kept[row : row + len(batch)], counts)
        hashes.append(found[mine])
        numbers.append(np.flatnonzero(mine).astype(np.uint64) + np.uint64((shard << ROW_BITS) + passage))
        row += len(batch)
        passage += len(found)
    scatter(np.concatenate(hashes), np.concatenate(numbers), out / "hashes.npy")
    return {"entries": int(sum(map(len, numbers)))}


def find_repeats(out: Path, root: Path, partition: int, shards: int, partitions: int) -> dict[str, Any]:
    """Write dropped.npy: pairs (passage, the first like it)."""
    files = [Shard(root, shard).file("passage_hashes", "hashes.npy") for shard in range(shards)]
    pairs = duplicates(files, partition, partitions)
    save(out / "dropped.npy", pairs)
    return {"pairs": len(pairs)}


def without(here: Shard, shortest: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """All documents of a shard, in order, without the passages that stand elsewhere too."""
    gone: NDArray[np.int64] = np.sort(here.pairs("passages", "dropped.npy")[0])
    passage = 0
    for batch in batches:
        place = batch.schema.get_field_index("text")
        _, counts = passage_hashes(batch.column(place), PARAGRAPH, shortest)
        total = int(counts.sum())
        begin, end = np.searchsorted(gone, [passage, passage + total])
        marks = np.zeros(total, bool)
        marks[gone[begin:end] - passage] = True
        passage += total
        text, _ = drop_passages(batch.column(place), PARAGRAPH, shortest, marks)
        yield batch.set_column(place, "text", text)
