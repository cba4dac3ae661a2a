"""Stages tag and filter: what is measured of each document, and which rule drops it. Tags know no thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from groundup.data.clean.personal import find
from groundup.data.execute.task import Done, Task
from groundup.data.filters.presets import all_rules
from groundup.data.filters.rules import decide
from groundup.data.stages.shard import Shard
from groundup.data.tags.custom import Tagger, custom_tags, load
from groundup.data.tags.language import languages
from groundup.data.tags.statistics import statistics
from groundup.recipe.filters import Rule
from groundup.recipe.language import Data

PERSONAL = Rule(name="personal_data", tag="personal", max=0, source="data.personal")


def wanted(data: Data) -> bool:
    """Whether anything in the recipe looks at tags."""
    rules = bool(data.filters or data.rules or data.taggers) or data.personal == "drop"
    near = data.near_duplicates
    return rules or (near is not None and near.keep not in ("first", "longest"))


def tag_tasks(data: Data, base: Path, read: Sequence[Done]) -> list[Task]:
    """`base`: the recipe's folder, where files of taggers are looked for."""
    arguments = {"personal": data.personal == "drop", "taggers": data.taggers, "base": str(base.absolute())}
    code = tuple(_code(load(tagger, base)) for tagger in data.taggers)
    return [
        Task(
            "tag",
            done.name,
            f"{__name__}:tag",
            {"shard": shard, **arguments},
            (done.output, *code),
            done.result["clean"]["bytes"],
        )
        for shard, done in enumerate(read)
    ]


def tag(out: Path, root: Path, shard: int, personal: bool, taggers: list[str], base: str) -> dict[str, Any]:
    """Write tags.parquet."""
    own = [load(tagger, Path(base)) for tagger in taggers]
    writer = None
    for batch in Shard(root, shard).batches(["text"]):
        text = batch.column("text")
        tables = [statistics(text), languages(text), *([_personal(text)] if personal else [])]
        tables += [custom_tags(tagger, text) for tagger in own]
        columns = {column: table.column(column) for table in tables for column in table.column_names}
        table = pa.table(columns)
        if writer is None:
            writer = pq.ParquetWriter(out / "tags.parquet", table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return {}


def _code(tagger: Tagger) -> str:
    """Changes with the file that a tagger is in."""
    return xxhash.xxh3_128_hexdigest(Path(tagger.file).read_bytes())


def _personal(text: pa.LargeStringArray) -> pa.Table:
    counts = find(text)
    total = sum(np.asarray(column) for column in counts.columns)
    return counts.append_column("personal", pa.array(total))


def rules(data: Data) -> list[Rule]:
    """All rules of the recipe, in the order in which they are asked."""
    return all_rules(data.filters, [*([PERSONAL] if data.personal == "drop" else []), *data.rules])


def filter_tasks(data: Data, tagged: Sequence[Done]) -> list[Task]:
    found = [rule.model_dump() for rule in rules(data)]
    return [
        Task("filter", done.name, f"{__name__}:filter_shard", {"shard": shard, "rules": found}, (done.output,))
        for shard, done in enumerate(tagged)
    ]


def filter_shard(out: Path, root: Path, shard: int, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Write reasons.npy: int16 [N], the number of the rule that drops the document, or -1."""
    names = [Rule(**rule).label for rule in rules]
    path = Shard(root, shard).file("tag", "tags.parquet")
    codes = np.full(Shard(root, shard).rows, -1, np.int16)
    if path.exists():
        found = decide([Rule(**rule) for rule in rules], pq.read_table(path, use_threads=False))
        codes[:] = pc.fill_null(pc.index_in(found, pa.array(names, found.type)), -1).to_numpy()
    np.save(out / "reasons.npy", codes)
    return {"rules": names}
