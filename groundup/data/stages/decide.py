"""The last word on each document: whether it is kept and in which part, or why not and for which twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from groundup.data.execute.task import Done, Task
from groundup.data.stages import near
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard

SPLITS = ("train", "validation")
# Stages that drop documents, in the order in which they are asked.
DROPPING = ("filter", "exact_dedup", "near_dedup", "decontaminate")
DECISIONS = pa.schema(
    [
        ("reason", pa.dictionary(pa.int16(), pa.string())),  # null: kept
        ("twin", pa.uint64()),  # number of the document that stays in its place
        ("split", pa.dictionary(pa.int8(), pa.string())),  # null: dropped
    ]
)


def tasks(
    stages: Sequence[str],
    share: float | None,
    seed: int,
    validation: float,
    read: Sequence[Done],
    inputs: Sequence[str],
) -> list[Task]:
    """`stages`: those of DROPPING that the recipe asks for. `share`: of an evaluation item's n-grams from which a
    document is contaminated. `inputs`: of each shard the fingerprint of all that these stages made for it."""
    arguments = {"stages": list(stages), "share": share, "seed": seed, "validation": validation}
    return [
        Task("split", done.name, f"{__name__}:decide", {"shard": shard, **arguments}, (done.output, before))
        for shard, (done, before) in enumerate(zip(read, inputs, strict=True))
    ]


def decide(
    out: Path, root: Path, shard: int, stages: list[str], share: float | None, seed: int, validation: float
) -> dict[str, Any]:
    """Write decisions.parquet; documents and bytes that enter and leave each stage, and those of each part."""
    here = Shard(root, shard)
    sizes = np.asarray(here.array("read", "bytes.npy"))
    rows = len(sizes)
    reasons: NDArray[np.object_] = np.full(rows, None, object)
    twins, has_twin = np.zeros(rows, np.uint64), np.zeros(rows, bool)
    kept = np.ones(rows, bool)
    counts: dict[str, Any] = {}
    for stage in stages:
        mine, why, others = _dropped(here, stage, share)
        fresh = kept[mine]
        mine, why = mine[fresh], why[fresh]
        counts[stage] = _counts(sizes, kept)
        reasons[mine] = why
        if others is not None:
            twins[mine], has_twin[mine] = others[fresh], True
        kept[mine] = False
        names, numbers = np.unique(why.astype(str), return_counts=True)
        counts[stage]["dropped"] = dict(zip(names.tolist(), numbers.tolist(), strict=True))
    counts["split"] = {**_counts(sizes, kept), "dropped": {}}
    validating = _share(here, "near_dedup" in stages, seed) < validation
    parts: NDArray[np.object_] = np.full(rows, None, object)
    parts[kept & ~validating], parts[kept & validating] = SPLITS
    columns = [
        pa.array(reasons.tolist(), pa.string()).dictionary_encode().cast(DECISIONS.field("reason").type),
        pa.array(twins, mask=~has_twin),
        pa.array(parts.tolist(), pa.string()).dictionary_encode().cast(DECISIONS.field("split").type),
    ]
    pq.write_table(pa.Table.from_arrays(columns, schema=DECISIONS), out / "decisions.parquet", compression="zstd")
    splits = {name: _counts(sizes, parts == name) for name in SPLITS}
    return {"stages": counts, "splits": splits}


def account(stages: Stages, dropping: Sequence[str], done: Sequence[Done]) -> None:
    """Enter what each stage dropped."""
    names = [*dropping, "split"]
    for task in done:
        counts = task.result["stages"]
        for stage, following in zip(names, [*names[1:], "split"], strict=True):
            stages[stage].count(counts[stage], counts[following], counts[stage]["dropped"])


def _counts(sizes: NDArray[np.int64], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    return {"documents": int(chosen.sum()), "bytes": int(sizes[chosen].sum())}


def _dropped(
    here: Shard, stage: str, share: float | None
) -> tuple[NDArray[np.int64], NDArray[np.object_], NDArray[np.uint64] | None]:
    """Rows that a stage drops, its reasons, and the documents that stay in their place where it names them."""
    if stage == "filter":
        codes = np.asarray(here.array("filter", "reasons.npy"))
        rows = np.flatnonzero(codes >= 0)
        names = np.array(here.result("filter")["rules"], object)
        return rows, names[codes[rows]] if len(rows) else np.empty(0, object), None
    if stage == "decontaminate":
        hits = here.table("contaminate", "hits.parquet")
        rows = np.flatnonzero(pc.fill_null(pc.greater_equal(hits["fraction"], share), False).to_numpy())
        sets = hits["evaluation_set"].take(pa.array(rows)).to_pylist()
        return rows, np.array([f"contaminated:{name}" for name in sets], object), None
    if stage == "near_dedup":
        rows, twins = near.dropped(here)
        return rows, np.full(len(rows), "near_duplicate", object), twins
    rows, twins = here.pairs("exact_dedup", "dropped.npy")
    return rows, np.full(len(rows), "exact_duplicate", object), twins


def _share(here: Shard, clustered: bool, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) per document: a function of the text that stands for its cluster and the seed, so that neither
    copies nor near-copies fall apart."""
    hashes = near.cluster_hashes(here) if clustered else np.asarray(here.array("read", "hashes.npy"))
    draws = [xxhash.xxh3_64_intdigest(digest.tobytes(), seed=seed) for digest in hashes]
    return np.array(draws, np.float64) / 2.0**64
