"""Stages tag and filter: what is measured of each document, and which rule drops it. Tags know no thresholds."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
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
from groundup.data.stages.read import clean_bytes
from groundup.data.stages.shard import Shard
from groundup.data.tags.custom import Tagger, custom_tags, file_of, load
from groundup.data.tags.language import languages
from groundup.data.tags.statistics import statistics
from groundup.errors import UserError
from groundup.recipe.filters import Rule
from groundup.recipe.language import Data

ROWS_AT_ONCE = 1 << 16  # documents whose tags are judged together
PERSONAL = Rule(name="personal_data", tag="personal", max=0, source="data.personal")


def wanted(data: Data) -> bool:
    """Whether anything in the recipe looks at tags."""
    rules = bool(data.filters or data.rules or data.taggers) or data.personal == "drop"
    near = data.near_duplicates
    return rules or (near is not None and near.keep not in ("first", "longest"))


def tag_tasks(data: Data, base: Path, read: Sequence[Done]) -> list[Task]:
    """`base`: the recipe's folder, where files of taggers are looked for."""
    arguments = {"personal": data.personal == "drop", "taggers": data.taggers, "base": str(base.absolute())}
    return [
        Task(
            "tag",
            done.name,
            f"{__name__}:tag",
            arguments,
            (done.output, *code(data, base)),
            clean_bytes(done),
            shard,
        )
        for shard, done in enumerate(read)
    ]


def tag(out: Path, root: Path, shard: int, personal: bool, taggers: list[str], base: str) -> dict[str, Any]:
    """Write tags.parquet, where there are documents."""
    own = [load(tagger, Path(base)) for tagger in taggers]
    tables = [_tags(batch.column("text"), personal, own) for batch in Shard(root, shard).batches(["text"])]
    if tables:
        table = _joined(tables)
        names = [name for name, kind in zip(table.column_names, table.schema.types, strict=True) if _is_text(kind)]
        # Numbers repeat little: without dictionaries they are written in two thirds of the time and take no more room.
        pq.write_table(
            table, out / "tags.parquet", row_group_size=ROWS_AT_ONCE, compression="zstd", use_dictionary=names
        )
    return {}


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of the tags of several batches of texts. A tagger may have no value for any text of a batch, but gives
    the same tags, each of one kind, for all. Raises UserError where it doesn't."""
    kinds: dict[str, pa.DataType] = {}
    for table in tables:
        if table.column_names != tables[0].column_names:
            differ = sorted({*table.column_names} ^ {*tables[0].column_names}) or ["their order"]
            raise UserError(
                f"not all texts get the same tags: {', '.join(differ)}",
                where="data.taggers",
                expected="the same names in the same order at each call, with None for what isn't known",
            )
        for name, kind in zip(table.column_names, table.schema.types, strict=True):
            before = kinds.get(name)
            if before is None or pa.types.is_null(before):
                kinds[name] = kind
            elif kind != before and not pa.types.is_null(kind):
                raise UserError(
                    f"the tag {name!r} is {before} of some texts and {kind} of others",
                    where="data.taggers",
                    expected="values of one kind",
                )
    schema = pa.schema(list(kinds.items()))
    return pa.concat_tables([table.cast(schema) for table in tables])


def _tags(text: pa.LargeStringArray, personal: bool, own: list[Tagger]) -> pa.Table:
    tables = [statistics(text), languages(text), *([_personal(text)] if personal else [])]
    tables += [custom_tags(tagger, text) for tagger in own]
    return pa.table({column: table.column(column) for table in tables for column in table.column_names})


def check_tags(data: Data, base: Path) -> None:
    """Raise UserError where rules, or near_duplicates.keep, ask for a tag that there is not, or for another kind of
    value. Told by the tags of one small text, before all texts are read."""
    own = [load(tagger, base) for tagger in data.taggers]
    tags = _tags(pa.array(["A text."], pa.large_string()), data.personal == "drop", own)
    decide(rules(data), tags)
    if data.near_duplicates is None or data.near_duplicates.keep in ("first", "longest"):
        return
    keep = data.near_duplicates.keep
    numbers = [name for name, kind in zip(tags.column_names, tags.schema.types, strict=True) if _is_number(kind)]
    if keep not in numbers:
        near = difflib.get_close_matches(keep, numbers, 1, 0.5)
        raise UserError(
            f"{keep!r} is no tag with numbers",
            where="data.near_duplicates.keep",
            expected="first, longest, or one of " + ", ".join(numbers),
            advice=f"Did you mean {near[0]!r}?" if near else "",
        )


def _is_number(kind: pa.DataType) -> bool:
    # A tagger may give no number for the one text.
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def code(data: Data, base: Path) -> list[str]:
    """Changes with the files that taggers are in."""
    return [xxhash.xxh3_128_hexdigest(file_of(tagger, base).read_bytes()) for tagger in data.taggers]


def _personal(text: pa.LargeStringArray) -> pa.Table:
    counts = find(text)
    total = sum(np.asarray(column) for column in counts.columns)
    return counts.append_column("personal", pa.array(total))


def rules(data: Data) -> list[Rule]:
    """All rules of the recipe, in the order in which they are asked."""
    return all_rules(data.filters, [*([PERSONAL] if data.personal == "drop" else []), *data.rules])


def filter_tasks(data: Data, read: Sequence[Done], tagged: Sequence[Done]) -> list[Task]:
    found = [rule.model_dump() for rule in rules(data)]
    return [
        Task(
            "filter",
            done.name,
            f"{__name__}:filter_shard",
            {"rules": found},
            (tags.output, done.output),
            clean_bytes(done),
            shard,
        )
        for shard, (done, tags) in enumerate(zip(read, tagged, strict=True))
    ]


def filter_shard(out: Path, root: Path, shard: int, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Write reasons.npy: int16 [N], the number of the rule that drops the document, or -1; the rules, and a fingerprint
    of which documents none of them drops."""
    names = [Rule(**rule).label for rule in rules]
    path = Shard(root, shard).file("tag", "tags.parquet")
    codes = np.full(Shard(root, shard).rows, -1, np.int16)
    start = 0
    for table in _row_groups(path) if path.exists() else ():
        found = decide([Rule(**rule) for rule in rules], table)
        numbers = pc.fill_null(pc.index_in(found, pa.array(names, found.type)), -1).to_numpy()
        codes[start : start + len(numbers)] = numbers
        start += len(numbers)
    np.save(out / "reasons.npy", codes)
    return {"rules": names, "passed": xxhash.xxh3_128_hexdigest(np.packbits(codes < 0).tobytes())}


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)
