"""Stage exact_dedup: which documents repeat another one's bytes, and which passages were seen before.

A shard leaves its hashes sorted; a task finds what repeats in one range of hashes over all shards, as wide as memory
allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.dedup.arrays import partitions_for, save
from groundup.data.dedup.exact import BYTES_PER_ENTRY, duplicates, scatter
from groundup.data.execute.task import Done, Task
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Found, Shard, name
from groundup.rundir import fingerprint


def exact(stages: Stages, filtered: bool, read: Sequence[Done], made: Sequence[Sequence[str]], memory: int) -> Found:
    """Do the stage. `filtered`: whether rules have dropped some. `made`: of each shard
    what that depends on. `memory`: bytes that a task may take."""
    work = f"{__name__}:scatter_shard"
    tasks = [
        Task(
            "exact_hashes",
            done.name,
            work,
            {"shard": shard, "filtered": filtered},
            (fingerprint(before),),
            clean_bytes(done),
        )
        for shard, (done, before) in enumerate(zip(read, made, strict=True))
    ]
    scattered = stages.run(tasks, "exact_dedup")
    entries = sum(done.result["entries"] for done in scattered)
    partitions = partitions_for(entries, BYTES_PER_ENTRY, memory)
    hashes = fingerprint([done.output for done in scattered])
    arguments = {"shards": len(read), "partitions": partitions}
    size = sum(map(clean_bytes, read)) // partitions
    tasks = [
        Task("exact_dedup", name(part), f"{__name__}:find_repeats", {"partition": part, **arguments}, (hashes,), size)
        for part in range(partitions)
    ]
    found = stages.run(tasks, "exact_dedup")
    return Found(partitions, fingerprint([done.output for done in found]))


def scatter_shard(out: Path, root: Path, shard: int, filtered: bool) -> dict[str, Any]:
    """Write hashes.npy: the shard's hashes and documents, sorted."""
    here = Shard(root, shard)
    hashes, numbers = np.asarray(here.array("read", "hashes.npy")), here.numbers
    passed = here.passed(filtered)
    scatter(hashes[passed], numbers[passed], out / "hashes.npy")
    return {"entries": int(passed.sum())}


def find_repeats(out: Path, root: Path, partition: int, shards: int, partitions: int) -> dict[str, Any]:
    """Write dropped.npy: pairs (document, twin)."""
    files = [Shard(root, shard).file("exact_hashes", "hashes.npy") for shard in range(shards)]
    pairs = duplicates(files, partition, partitions)
    save(out / "dropped.npy", pairs)
    return {"pairs": len(pairs)}
