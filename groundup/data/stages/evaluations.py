"""Stage decontaminate: which n-grams of evaluation files stand in which documents."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from groundup.data.decontaminate.index import build_index, load_index, save_index
from groundup.data.decontaminate.items import read_items
from groundup.data.decontaminate.match import hits, matches
from groundup.data.execute.task import Done, Task
from groundup.data.stages.run import Stages
from groundup.data.stages.shard import Shard
from groundup.errors import UserError
from groundup.recipe.language import Decontamination

_INDEX = "evaluation_index"


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


def run(stages: Stages, section: Decontamination, base: Path, read: Sequence[Done]) -> list[Done]:
    """Do the stage; of each shard what was found."""
    files = files_of(section, base)
    stats = [[path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    arguments = {
        "files": [str(path) for path in files],
        "fields": section.fields,
        "ngram": section.ngram,
        "common": section.common,
    }
    task = Task(_INDEX, "all", f"{__name__}:index", arguments, (str(stats),))
    index = stages.run([task], "decontaminate")[0]
    tasks = [
        Task(
            "contaminate",
            done.name,
            f"{__name__}:contaminate",
            {"shard": shard},
            (done.output, index.output),
            done.result["clean"]["bytes"],
        )
        for shard, done in enumerate(read)
    ]
    return stages.run(tasks, "decontaminate")


def index(out: Path, root: Path, files: list[str], fields: list[str], ngram: int, common: int) -> dict[str, Any]:
    """Write the index of all evaluation files, a set each."""

    def sets() -> Iterator[tuple[str, Iterator[tuple[str, list[str]]]]]:
        for file in files:
            yield Path(file).name, read_items(Path(file), fields)

    made = build_index(sets(), ngram, allowance=common)
    save_index(made, out)
    return {"items": len(made.items), "ngrams": len(made.keys), "unmatched": made.unmatched, "common": made.common}


def contaminate(out: Path, root: Path, shard: int) -> dict[str, Any]:
    """Write hits.parquet: of each document how many n-grams of evaluations it has, of which item most, and what share
    of that item's."""
    known = load_index(root / _INDEX / "all")
    nothing = pa.array([], pa.large_string())
    texts = chain([nothing], (batch.column("text") for batch in Shard(root, shard).batches(["text"])))
    found = pa.concat_tables([hits(matches(text, known), len(text), known) for text in texts])
    pq.write_table(found, out / "hits.parquet", compression="zstd")
    return {"documents": int(np.count_nonzero(found["ngrams"].to_numpy()))}
