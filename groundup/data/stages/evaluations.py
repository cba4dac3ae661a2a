"""Stage decontaminate: which n-grams of evaluation files stand in which documents."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundup.data.decontaminate.files import files_of, state
from groundup.data.decontaminate.index import Array, build_index, load_index, save_index
from groundup.data.decontaminate.items import read_items
from groundup.data.decontaminate.match import MATCHES, hits, item_hits, matches, report
from groundup.data.dedup.arrays import open_array, save
from groundup.data.execute.task import Done, Task
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard
from groundup.recipe.language import Decontamination
from groundup.rundir import fingerprint

_INDEX, _COMMON = "evaluation_index", "common_ngrams"
COMMON_FROM = 100  # documents that an n-gram must be in to be common, whatever share of a small corpus they are
MOST_TOLD = 100  # items in the manifest, those in the most documents; all of them are in items.parquet


class Before(NamedTuple):
    """What is known of documents when n-grams are counted: whether rules have dropped some, and the partitions of
    exact_dedup (0: it's off)."""

    filtered: bool
    repeats: int


def run(
    stages: Stages,
    section: Decontamination,
    base: Path,
    before: Before,
    read: Sequence[Done],
    passed: Sequence[str],
    made: Sequence[Sequence[str]],
) -> tuple[list[Done], dict[str, Any]]:
    """Do the stage; of each shard what was found, and the account by evaluation set and item. Of each shard, `passed`:
    which documents no rule drops; `made`: what `before` depends on."""
    files = files_of(section, base)
    size = sum(path.stat().st_size for path in files)
    arguments = {
        "files": [str(path) for path in files],
        "fields": section.fields,
        "ngram": section.ngram,
        "common": section.common,
    }
    task = Task(_INDEX, "all", f"{__name__}:index", arguments, (state(files),), size)
    index = stages.run([task], "decontaminate")[0]
    tasks = [
        Task(
            "contaminate",
            done.name,
            f"{__name__}:contaminate",
            {"filtered": before.filtered},
            (done.output, which, index.output),
            clean_bytes(done),
            shard,
        )
        for shard, (done, which) in enumerate(zip(read, passed, strict=True))
    ]
    matched = stages.run(tasks, "decontaminate")
    tasks = [
        Task(
            "ngram_documents",
            done.name,
            f"{__name__}:count",
            {"shard": shard, **before._asdict()},
            (done.output, fingerprint(outputs)),
            clean_bytes(read[shard]),
        )
        for shard, (done, outputs) in enumerate(zip(matched, made, strict=True))
    ]
    counted = stages.run(tasks, "decontaminate")
    documents = sum(done.result["documents"] for done in counted)
    arguments = {"shards": len(read), "most": max(COMMON_FROM, int(section.common_documents * documents))}
    inputs = (index.output, fingerprint([done.output for done in counted]))
    common = stages.run([Task(_COMMON, "all", f"{__name__}:find_common", arguments, inputs, size)], "decontaminate")[0]
    tasks = [
        Task(
            "contaminated",
            done.name,
            f"{__name__}:judge",
            {},
            # There is a row for each document, also where none matches.
            (read[shard].output, done.output, index.output, common.output),
            clean_bytes(read[shard]),
            shard,
        )
        for shard, done in enumerate(matched)
    ]
    found = stages.run(tasks, "decontaminate")
    outputs = (index.output, common.output, fingerprint([done.output for done in found]))
    arguments = {"shards": len(read), "share": section.share}
    task = Task("evaluations", "all", f"{__name__}:tell", arguments, outputs, size)
    return found, stages.run([task], "decontaminate")[0].result


def set_names(files: Sequence[Path]) -> list[str]:
    """A name for each file: its own, or, where others are called so too, its path below the folder of them all."""
    names = [file.name for file in files]
    common = os.path.commonpath([file.parent for file in files])
    return [str(f.relative_to(common)) if names.count(f.name) > 1 else f.name for f in files]


def index(out: Path, root: Path, files: list[str], fields: list[str], ngram: int, common: int) -> dict[str, Any]:
    """Write the index of all evaluation files, a set each. An item is called SET#RECORD."""
    paths = [Path(file) for file in files]

    def sets() -> Iterator[tuple[str, Iterator[tuple[str, list[str]]]]]:
        for name, path in zip(set_names(paths), paths, strict=True):
            yield name, ((f"{name}#{record}", texts) for record, texts in read_items(path, fields))

    made = build_index(sets(), ngram, allowance=common)
    save_index(made, out)
    return {"items": len(made.items), "ngrams": len(made.keys), "common": made.common}


def contaminate(out: Path, root: Path, shard: int, filtered: bool) -> dict[str, Any]:
    """Write matches.parquet: which n-grams of the index stand in which of the documents that no rule drops."""
    here, known = Shard(root, shard), load_index(root / _INDEX / "all")
    with pq.ParquetWriter(out / "matches.parquet", MATCHES, compression="zstd") as writer:
        for rows, batch in here.chosen(["text"], here.passed(filtered)):
            found = matches(batch.column("text"), known)
            writer.write_table(found.set_column(0, "row", pa.array(rows[found["row"].to_numpy()])))
    return {}


def count(out: Path, root: Path, shard: int, filtered: bool, repeats: int) -> dict[str, Any]:
    """Write counts.npy, int64 [M, 2]: n-grams, and in how many of the documents they stand that no stage has dropped;
    how many documents that are."""
    here = Shard(root, shard)
    left = here.left(filtered, repeats)
    found = here.table("contaminate", "matches.parquet")
    ngrams = found["ngram"].to_numpy()[left[found["row"].to_numpy()]]
    save(out / "counts.npy", np.stack(np.unique(ngrams, return_counts=True), axis=1))
    return {"documents": int(left.sum())}


def find_common(out: Path, root: Path, shards: int, most: int) -> dict[str, Any]:
    """Write common.npy, bool [G]: which n-grams of the index stand in more than `most` documents."""
    documents = np.zeros(len(load_index(root / _INDEX / "all").keys), np.int64)
    for shard in range(shards):
        ngrams, counts = np.asarray(Shard(root, shard).array("ngram_documents", "counts.npy")).T
        documents[ngrams] += counts
    save(out / "common.npy", documents > most)
    return {"ngrams": int((documents > most).sum())}


def judge(out: Path, root: Path, shard: int) -> dict[str, Any]:
    """Write item_hits.parquet: of each document how many n-grams of which items it has; hits.parquet: of which item it
    has the largest share."""
    here, known = Shard(root, shard), load_index(root / _INDEX / "all")
    common = _common(root)
    found = here.table("contaminate", "matches.parquet")
    of_items = item_hits(found, known, common)
    pq.write_table(of_items, out / "item_hits.parquet", compression="zstd")
    pq.write_table(hits(found, of_items, here.rows, known, common), out / "hits.parquet", compression="zstd")
    return {}


def _common(root: Path) -> Array:
    return open_array(root / _COMMON / "all" / "common.npy")


def tell(out: Path, root: Path, shards: int, share: float) -> dict[str, Any]:
    """Write items.parquet: of each item that a document holds, in how many documents and with what share; the account
    of each set."""
    known = load_index(root / _INDEX / "all")
    tables = (Shard(root, shard).table("contaminated", "item_hits.parquet") for shard in range(shards))
    items = report(tables, known, share)
    pq.write_table(items, out / "items.parquet", compression="zstd")
    common = _common(root)
    unmatched = known.item_ngrams(common) == 0
    totals = np.bincount(known.item_sets, minlength=len(known.sets))
    without = np.bincount(known.item_sets[unmatched], minlength=len(known.sets))
    found = Counter(items["evaluation_set"].to_pylist())
    sets = [
        {"name": name, "items": total, "found": found[name], "unmatched": left_out}
        for name, total, left_out in zip(known.sets, totals.tolist(), without.tolist(), strict=True)
    ]
    most = items.sort_by([("documents", "descending"), ("fraction", "descending")])[:MOST_TOLD]
    ngrams = {"ngrams": len(known.keys), "in_many_items": known.common, "in_many_documents": int(common.sum())}
    return {"sets": sets, "items": most.to_pylist(), **ngrams}


def contaminated(here: Shard, share: float) -> NDArray[np.int64]:
    """Rows of a shard that hold at least this share of an evaluation item's n-grams."""
    fractions = here.table("contaminated", "hits.parquet", ["fraction"])["fraction"]
    return np.flatnonzero(pc.fill_null(pc.greater_equal(fractions, share), False).to_numpy())
