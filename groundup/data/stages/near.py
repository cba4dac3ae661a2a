"""Stage near_dedup: documents whose n-grams are nearly the same, and the one of each cluster that stays.

A shard's signatures are those of the documents that no rule drops there, which may be a small part; they know no
threshold and no other shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.console import say
from groundup.data.dedup import keep
from groundup.data.dedup.arrays import ROW_BITS, ROW_MASK, ArrayWriter, open_array, partitions_for, save
from groundup.data.dedup.bands import Banding, choose_bands, scatter_bands
from groundup.data.dedup.candidates import BYTES_PER_ENTRY, band_edges
from groundup.data.dedup.components import cluster_roots, components
from groundup.data.dedup.signatures import signatures
from groundup.data.execute.task import Done, Task
from groundup.data.stages import evaluations
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard, name
from groundup.recipe.language import NearDuplicates
from groundup.rundir import fingerprint

FOLDER = "all"


@dataclass(frozen=True)
class Before:
    """What is known of documents before clusters are made: whether rules have dropped some, the partitions of
    exact_dedup (0: it's off), the share of an evaluation item that contaminates (None: nothing is looked for)."""

    filtered: bool
    repeats: int
    contaminated: float | None


def run(
    stages: Stages,
    near: NearDuplicates,
    before: Before,
    read: Sequence[Done],
    passed: Sequence[str],
    made: Sequence[Sequence[str]],
    memory: int,
    seed: int,
) -> str:
    """Do the stage; fingerprint of the clusters. Of each shard, `passed`: which documents no rule drops; `made`: what
    `before` depends on."""
    banding = choose_bands(near.threshold, near.permutations)
    say(_words(near.threshold, banding))
    how = {"permutations": near.permutations, "ngram": near.ngram, "seed": seed, "filtered": before.filtered}
    tasks = [
        Task("sign", done.name, f"{__name__}:sign", how, (done.output, which), clean_bytes(done), shard)
        for shard, (done, which) in enumerate(zip(read, passed, strict=True))
    ]
    signed = stages.run(tasks, "near_dedup")
    shape = {"bands": banding.bands, "rows": banding.rows}
    tasks = [
        Task(
            "bands",
            done.name,
            f"{__name__}:scatter_shard",
            {"shard": shard, "filtered": before.filtered, "repeats": before.repeats, **shape},
            (done.output, fingerprint(outputs)),
            clean_bytes(read[shard]),
        )
        for shard, (done, outputs) in enumerate(zip(signed, made, strict=True))
    ]
    scattered = stages.run(tasks, "near_dedup")
    partitions = partitions_for(sum(done.result["documents"] for done in scattered), BYTES_PER_ENTRY, memory)
    keys = fingerprint([done.output for done in scattered])
    size = sum(map(clean_bytes, read)) // (banding.bands * partitions)
    tasks = [
        Task(
            "edges",
            f"{name(band)}-{name(part)}",
            f"{__name__}:find_edges",
            {
                "band": band,
                "partition": part,
                "partitions": partitions,
                "shards": len(read),
                "banding": banding.__dict__,
            },
            (keys,),
            size,
        )
        for band in range(banding.bands)
        for part in range(partitions)
    ]
    found = stages.run(tasks, "near_dedup")
    counts = [done.result["clean"]["documents"] for done in read]
    task = Task(
        "near_dedup",
        FOLDER,
        f"{__name__}:cluster",
        {
            "edges": [done.name for done in found],
            "counts": counts,
            "stays": near.keep,
            "contaminated": before.contaminated,
        },
        (fingerprint([done.output for done in found]), fingerprint(made)),
        sum(map(clean_bytes, read)),
    )
    return stages.run([task], "near_dedup")[0].output


def _words(threshold: float, banding: Banding) -> str:
    points = ", ".join(
        f"{similarity:.2f}: {banding.compared(similarity):.3f}"
        for similarity in (threshold - 0.2, threshold - 0.1, threshold, threshold + 0.1)
        if 0 < similarity < 1
    )
    return (
        f"near duplicates: {banding.bands} bands of {banding.rows} rows; share of pairs compared, by similarity: "
        f"{points}; joined from {banding.matches} of {banding.permutations} equal entries on"
    )


def sign(out: Path, root: Path, shard: int, permutations: int, ngram: int, seed: int, filtered: bool) -> dict[str, Any]:
    """Write signatures.npy, uint32 [M, permutations], and rows.npy, int64 [M], of the documents that no rule drops."""
    here = Shard(root, shard)
    passed = here.passed(filtered)
    save(out / "rows.npy", np.flatnonzero(passed))
    with ArrayWriter(out / "signatures.npy", int(passed.sum()), permutations, np.uint32) as writer:
        for _, batch in here.chosen(["text"], passed):
            writer.add(signatures(batch.column("text"), permutations, ngram, seed))
    return {}


def scatter_shard(
    out: Path, root: Path, shard: int, filtered: bool, repeats: int, bands: int, rows: int
) -> dict[str, Any]:
    """Write bands.npy: the keys in each band of the documents that no stage has dropped."""
    here = Shard(root, shard)
    left = here.left(filtered, repeats)
    signed = here.array("sign", "rows.npy")
    documents = signed.astype(np.uint64) | np.uint64(shard << ROW_BITS)
    scatter_bands(here.array("sign", "signatures.npy"), left[signed], documents, (bands, rows), out / "bands.npy")
    return {"documents": int(left.sum())}


def find_edges(
    out: Path, root: Path, band: int, partition: int, partitions: int, shards: int, banding: dict[str, int]
) -> dict[str, Any]:
    """Write edges.npy: pairs of documents alike."""
    all_shards = [Shard(root, shard) for shard in range(shards)]
    edges = band_edges(
        [shard.file("bands", "bands.npy") for shard in all_shards],
        [shard.file("sign", "signatures.npy") for shard in all_shards],
        Banding(**banding),
        band,
        partition,
        partitions,
        [shard.file("sign", "rows.npy") for shard in all_shards],
    )
    save(out / "edges.npy", edges)
    return {"edges": len(edges)}


def cluster(
    out: Path, root: Path, edges: list[str], counts: list[int], stays: str, contaminated: float | None
) -> dict[str, Any]:
    """Write counts.npy, the shards' rows, roots.npy, and kept.npy unless the first stays. A contaminated document stays
    only where all of its cluster are: the others would fall with it."""
    save(out / "counts.npy", np.array(counts))
    components((root / "edges" / edge / "edges.npy" for edge in edges), counts, out / "roots.npy")
    if stays != "first" or contaminated is not None:
        values = (_values(Shard(root, shard), stays, contaminated) for shard in range(len(counts)))
        keep.choose_kept(out / "roots.npy", values, out / "kept.npy")
    return {}


def _values(here: Shard, stays: str, contaminated: float | None) -> NDArray[np.float64]:
    """Of each document how much is for its staying."""
    values = np.zeros(here.rows)
    if stays == "longest":
        values[:] = here.array("read", "bytes.npy")
    elif stays != "first" and here.rows:
        values[:] = here.table("tag", "tags.parquet", [stays])[stays].to_numpy()
        values[np.isnan(values)] = np.finfo(np.float64).min
    if contaminated is not None:
        values[evaluations.contaminated(here, contaminated)] = -np.inf
    return values


def dropped(here: Shard) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Rows of a shard that go, and the documents that stay in their place."""
    folder = here.root / "near_dedup" / FOLDER
    kept = folder / "kept.npy"
    pairs = keep.dropped(
        folder / "roots.npy", kept if kept.exists() else None, open_array(folder / "counts.npy").tolist(), here.number
    )
    return (pairs[:, 0] & ROW_MASK).astype(np.int64), pairs[:, 1]


def cluster_hashes(here: Shard) -> NDArray[np.uint64]:
    """Of each document of a shard the content hash of its cluster's first one, uint64 [N, 2]."""
    folder = here.root / "near_dedup" / FOLDER
    roots = cluster_roots(folder / "roots.npy", open_array(folder / "counts.npy").tolist(), here.number)
    found = np.empty((len(roots), 2), np.uint64)
    shards = roots >> np.uint64(ROW_BITS)
    for shard in np.unique(shards):
        mine = shards == shard
        rows = (roots[mine] & ROW_MASK).astype(np.int64)
        found[mine] = Shard(here.root, int(shard)).array("read", "hashes.npy")[rows]
    return found
