"""Stage decontaminate: which n-grams of evaluation files stand in which documents."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from groundup.data.decontaminate.index import build_index, load_index, save_index
from groundup.data.decontaminate.items import read_items
from groundup.data.decontaminate.match import ITEM_HITS, hits, item_hits, matches, report
from groundup.data.execute.task import Done, Task
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard
from groundup.errors import UserError
from groundup.recipe.language import Decontamination
from groundup.rundir import fingerprint

_INDEX = "evaluation_index"
MOST_TOLD = 100  # items in the manifest, those in the most documents; all of them are in items.parquet


def files_of(section: Decontamination, base: Path) -> list[Path]:
    """The evaluation files, sorted. A relative path starts at `base`, the recipe's folder, or else at the working
    directory. Raises UserError where nothing is there."""
    found: list[Path] = []
    for pattern in section.files:
        here = [Path(path) for start in (base, Path()) for path in glob.glob(str(start / pattern), recursive=True)]
        if not here:
            raise UserError(
                "there is no such evaluation file",
                where=f"data.decontaminate.files: {pattern}",
                expected=f"a file in {base.absolute()} or in the working directory",
            )
        found += here
    return sorted({path.absolute() for path in found})


def state(files: Sequence[Path]) -> str:
    """Changes with the files: sizes and times of change."""
    return fingerprint([[path.stat().st_size, path.stat().st_mtime_ns] for path in files])


def run(
    stages: Stages, section: Decontamination, base: Path, read: Sequence[Done]
) -> tuple[list[Done], dict[str, Any]]:
    """Do the stage; of each shard what was found, and the account by evaluation set and item."""
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
            {},
            (done.output, index.output),
            clean_bytes(done),
            shard,
        )
        for shard, done in enumerate(read)
    ]
    found = stages.run(tasks, "decontaminate")
    outputs = (index.output, fingerprint([done.output for done in found]))
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
    return {"items": len(made.items), "ngrams": len(made.keys), "unmatched": made.unmatched, "common": made.common}


def contaminate(out: Path, root: Path, shard: int) -> dict[str, Any]:
    """Write item_hits.parquet: of each document how many n-grams of which items it has; hits.parquet: of which item it
    has the largest share."""
    known = load_index(root / _INDEX / "all")
    nothing = pa.array([], pa.large_string())
    found = []
    start = 0
    with pq.ParquetWriter(out / "item_hits.parquet", ITEM_HITS, compression="zstd") as writer:
        for text in chain([nothing], (batch.column("text") for batch in Shard(root, shard).batches(["text"]))):
            ngrams = matches(text, known)
            of_items = item_hits(ngrams, known)
            found.append(hits(ngrams, of_items, len(text), known))
            writer.write_table(of_items.set_column(0, "row", pa.array(of_items["row"].to_numpy() + start)))
            start += len(text)
    table = pa.concat_tables(found)
    pq.write_table(table, out / "hits.parquet", compression="zstd")
    return {"documents": int(np.count_nonzero(table["ngrams"].to_numpy()))}


def tell(out: Path, root: Path, shards: int, share: float) -> dict[str, Any]:
    """Write items.parquet: of each item that a document holds, in how many documents and with what share; the account
    of each set."""
    known = load_index(root / _INDEX / "all")
    tables = (Shard(root, shard).table("contaminate", "item_hits.parquet") for shard in range(shards))
    items = report(tables, known, share)
    pq.write_table(items, out / "items.parquet", compression="zstd")
    totals = np.bincount(known.item_sets, minlength=len(known.sets)).tolist()
    found = Counter(items["evaluation_set"].to_pylist())
    sets = [
        {"name": name, "items": total, "found": found[name], "unmatched": known.unmatched[name]}
        for name, total in zip(known.sets, totals, strict=True)
    ]
    most = items.sort_by([("documents", "descending"), ("fraction", "descending")])[:MOST_TOLD]
    return {"sets": sets, "items": most.to_pylist()}


def contaminated(here: Shard, share: float) -> NDArray[np.int64]:
    """Rows of a shard that hold at least this share of an evaluation item's n-grams."""
    fractions = here.table("contaminate", "hits.parquet", ["fraction"])["fraction"]
    return np.flatnonzero(pc.fill_null(pc.greater_equal(fractions, share), False).to_numpy())
