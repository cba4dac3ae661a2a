"""The last word on each document: whether it is kept and in which part, or why not and for which twin.

`draw` says what the stages before drop, and draws a number for each document; `split` parts the rest by these numbers,
once it is known which of the validation part stand in the training part too (`groundup.data.stages.leaks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from groundup.console import say
from groundup.data.execute.task import Done, Task
from groundup.data.stages import evaluations, leaks, near
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard

SPLITS = ("train", "validation")
# Stages that drop documents, in the order in which they are asked.
DROPPING = ("filter", "exact_dedup", "near_dedup", "decontaminate")
_REASON = ("reason", pa.dictionary(pa.int16(), pa.string()))  # null: kept
_TWIN = ("twin", pa.uint64())  # number of the document that stays in its place
DRAWN = pa.schema([_REASON, _TWIN])
DECISIONS = pa.schema([_REASON, _TWIN, ("split", pa.dictionary(pa.int16(), pa.string()))])  # null: dropped


def draw_tasks(
    stages: Sequence[str],
    repeats: int,
    share: float | None,
    seed: int,
    read: Sequence[Done],
    inputs: Sequence[str],
) -> list[Task]:
    """`stages`: those of DROPPING that the recipe asks for. `repeats`: partitions of exact_dedup. `share`: of an
    evaluation item's n-grams from which a document is contaminated. `inputs`: of each shard the fingerprint of all that
    these stages made for it."""
    arguments = {"stages": list(stages), "repeats": repeats, "share": share, "seed": seed}
    return [
        Task(
            "draw",
            done.name,
            f"{__name__}:draw",
            {"shard": shard, **arguments},
            (done.output, before),
            clean_bytes(done),
        )
        for shard, (done, before) in enumerate(zip(read, inputs, strict=True))
    ]


def draw(
    out: Path, root: Path, shard: int, stages: list[str], repeats: int, share: float | None, seed: int
) -> dict[str, Any]:
    """Write decisions.parquet (DRAWN) and draws.npy, a number in [0, 1) per document; documents and bytes that enter
    each stage, and the least and the greatest number of a document that is left."""
    here = Shard(root, shard)
    sizes = np.asarray(here.array("read", "bytes.npy"))
    codes = np.full(len(sizes), -1, np.int16)
    names: list[str] = []
    twins, has_twin = np.zeros(len(sizes), np.uint64), np.zeros(len(sizes), bool)
    counts: dict[str, Any] = {}
    for stage in stages:
        kept = codes < 0
        mine, why, others = _dropped(here, stage, repeats, share)
        fresh = kept[mine]
        mine, why = mine[fresh], why[fresh]
        reasons, which, numbers = np.unique(why.astype(str), return_inverse=True, return_counts=True)
        codes[mine] = which + len(names)
        names += reasons.tolist()
        if others is not None:
            twins[mine], has_twin[mine] = others[fresh], True
        counts[stage] = {**_counts(sizes, kept), "dropped": dict(zip(reasons.tolist(), numbers.tolist(), strict=True))}
    left = codes < 0
    draws = _draws(here, "near_dedup" in stages, seed)
    save_decisions(out, DRAWN, codes, names, pa.array(twins, mask=~has_twin))
    np.save(out / "draws.npy", draws)
    ends = [float(draws[left].min()), float(draws[left].max())] if left.any() else []
    return {"stages": counts, "left": _counts(sizes, left), "ends": ends}


def threshold(fraction: float, drawn: Sequence[Done]) -> float:
    """The draw below which a document is for validation: the recipe's fraction, or, where one part of a small corpus
    would be empty by that, what puts the nearest documents into it."""
    ends = [end for done in drawn for end in done.result["ends"]]
    if not 0 < fraction < 1 or not ends or min(ends) < fraction <= max(ends) or min(ends) == max(ends):
        return fraction
    say("too few documents for both parts by the draw alone: the smaller part takes the nearest")
    return float(np.nextafter(min(ends), 1.0)) if fraction <= min(ends) else max(ends)


def split_tasks(limit: float, found: str, overlap: str, read: Sequence[Done], drawn: Sequence[Done]) -> list[Task]:
    """`limit`: see `threshold`. `found`: fingerprint of what stage leaks found; `overlap`: data.validation_overlap."""
    arguments = {"limit": limit, "overlap": overlap}
    return [
        Task(
            "split",
            done.name,
            f"{__name__}:split",
            {"shard": shard, **arguments},
            (done.output, found, read[shard].output),
            clean_bytes(read[shard]),
        )
        for shard, done in enumerate(drawn)
    ]


def split(out: Path, root: Path, shard: int, limit: float, overlap: str) -> dict[str, Any]:
    """Write decisions.parquet; documents and bytes of each part, and how many were dropped."""
    here = Shard(root, shard)
    sizes = np.asarray(here.array("read", "bytes.npy"))
    drawn = here.table("draw", "decisions.parquet")
    codes, names = codes_of(drawn["reason"])
    parts = (np.asarray(here.array("draw", "draws.npy")) < limit).astype(np.int16)
    parts[codes >= 0] = -1
    dropped = {}
    if overlap != "keep":
        leaked = leaks.leaked(here)
        parts[leaked] = -1 if overlap == "drop" else SPLITS.index("train")
        if overlap == "drop" and len(leaked):
            codes[leaked] = len(names)
            names = [*names, leaks.REASON]
            dropped[leaks.REASON] = len(leaked)
    save_decisions(out, DECISIONS, codes, names, drawn["twin"], dictionary(parts, list(SPLITS)))
    return {"splits": part_counts(sizes, parts), "dropped": dropped}


def part_counts(sizes: NDArray[np.int64], parts: NDArray[np.int16]) -> dict[str, Any]:
    """Documents and bytes of each part. `parts`: numbers of SPLITS, -1 where a document is dropped."""
    return {name: _counts(sizes, parts == number) for number, name in enumerate(SPLITS)}


def codes_of(column: pa.ChunkedArray, names: list[str] | None = None) -> tuple[NDArray[np.int16], list[str]]:
    """The numbers of a column of names, -1 for null, and the names (those given, or all that occur)."""
    texts = column.cast(pa.string()).combine_chunks()
    names = pc.unique(texts.drop_null()).to_pylist() if names is None else names
    found = pc.index_in(texts, pa.array(names, pa.string())).fill_null(-1)
    return np.array(found, np.int16), names


def dictionary(codes: NDArray[Any], names: list[str]) -> pa.DictionaryArray:
    """Names by their numbers; null for -1."""
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), pa.array(names, pa.string()))


def save_decisions(out: Path, schema: pa.Schema, codes: NDArray[np.int16], names: list[str], *columns: Any) -> None:
    """Write decisions.parquet. `codes`: numbers of the reasons `names`, -1 where a document is kept."""
    table = pa.Table.from_arrays([dictionary(codes, names), *columns], schema=schema)
    pq.write_table(table, out / "decisions.parquet", compression="zstd")


def account(stages: Stages, dropping: Sequence[str], drawn: Sequence[Done], done: Sequence[Done]) -> None:
    """Enter what each stage dropped."""
    for before, after in zip(drawn, done, strict=True):
        counts = {**before.result["stages"], "split": {**before.result["left"], "dropped": after.result["dropped"]}}
        names = [*dropping, "split"]
        for stage, following in pairwise(names):
            stages[stage].count(counts[stage], counts[following], counts[stage]["dropped"])
        stages["split"].count(counts["split"], total(after), after.result["dropped"])


def total(split: Done) -> dict[str, int]:
    """Documents and bytes of both parts."""
    parts = split.result["splits"].values()
    return {key: sum(part[key] for part in parts) for key in ("documents", "bytes")}


def _counts(sizes: NDArray[np.int64], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    return {"documents": int(chosen.sum()), "bytes": int(sizes[chosen].sum())}


def _dropped(
    here: Shard, stage: str, repeats: int, share: float | None
) -> tuple[NDArray[np.int64], NDArray[np.object_], NDArray[np.uint64] | None]:
    """Rows that a stage drops, its reasons, and the documents that stay in their place where it names them."""
    if stage == "filter":
        codes = np.asarray(here.array("filter", "reasons.npy"))
        rows = np.flatnonzero(codes >= 0)
        names = np.array(here.result("filter")["rules"], object)
        return rows, names[codes[rows]] if len(rows) else np.empty(0, object), None
    if stage == "decontaminate":
        assert share is not None
        rows = evaluations.contaminated(here, share)
        sets = here.table("contaminated", "hits.parquet", ["evaluation_set"])["evaluation_set"].take(pa.array(rows))
        return rows, np.array([f"contaminated:{name}" for name in sets.to_pylist()], object), None
    if stage == "near_dedup":
        rows, twins = near.dropped(here)
        return rows, np.full(len(rows), "near_duplicate", object), twins
    rows, twins = here.pairs("exact_dedup", repeats)
    return rows, np.full(len(rows), "exact_duplicate", object), twins


def _draws(here: Shard, clustered: bool, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) per document: a function of the text that stands for its cluster and the seed, so that neither
    copies nor near-copies fall apart."""
    hashes = near.cluster_hashes(here) if clustered else np.asarray(here.array("read", "hashes.npy"))
    draws = [xxhash.xxh3_64_intdigest(digest.tobytes(), seed=seed) for digest in hashes]
    return np.array(draws, np.float64) / 2.0**64
