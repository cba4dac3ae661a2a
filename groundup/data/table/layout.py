"""The columns of a table's files: what they are called, which are features, and whether the files agree."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from groundup.data.read.compression import DAMAGE
from groundup.data.read.encoding import check_encoding, decoding_error
from groundup.data.read.sources import SourceFile, file_format
from groundup.data.table.places import numbered_rows
from groundup.errors import UserError
from groundup.recipe.table import TableData

_DELIMITERS = (",", ";", "\t", "|", ":", " ")
_SHOWN = 10


@dataclass(frozen=True)
class TableFile:
    """One file. `skip`: the lines of a CSV file before its first data row."""

    path: Path
    name: str
    format: str
    skip: int = 0


@dataclass(frozen=True)
class Layout:
    """The files and their columns: `names` in the files' order; `features`, without the target and the ignored."""

    files: list[TableFile]
    names: list[str]
    target: str
    ignored: list[str]
    features: list[str]

    @property
    def format(self) -> str:
        return self.files[0].format


def read_layout(files: list[SourceFile], data: TableData) -> Layout:
    """Read the files' headers. Raises UserError where a file holds no rows or can't be read, the files disagree, a
    name stands for two columns, or the recipe names a column that is not there."""
    formats = {file_format(f.name): f.name for f in reversed(files)}
    if len(formats) > 1:
        raise UserError(
            "CSV and Parquet files are mixed: " + ", ".join(sorted(formats.values())),
            where="data.path",
            advice="Choose one kind with data.files",
        )
    check_encoding(data.encoding, files[0].path)
    if not data.delimiter.isascii() or data.delimiter in '"\r\n':
        raise UserError(f"{data.delimiter!r} can't be a delimiter", where="data.delimiter", expected="such as , or ;")
    found: list[TableFile] = []
    names: list[str] = []
    for file in files:
        described, columns = _parquet(file, data) if "parquet" in formats else _csv(file, data)
        if found and columns != names:
            raise _disagreement(found[0], names, described, columns)
        found.append(described)
        names = columns
    _check_names(data, names, found[0])
    ignored = [n for n in names if n in set(data.ignore)]
    features = [n for n in names if n != data.target and n not in ignored]
    if not features:
        raise UserError("no column is left to predict from", where="data.ignore", expected="one besides the target")
    return Layout(found, names, data.target, ignored, features)


def _parquet(file: SourceFile, data: TableData) -> tuple[TableFile, list[str]]:
    if data.columns is not None:
        raise UserError("a Parquet file has names of its own", where="data.columns", advice="Take data.columns out")
    try:
        with pq.ParquetFile(file.path) as parquet:
            names, rows = list(parquet.schema_arrow.names), parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"can't be read as Parquet: {error}", where=str(file.path)) from None
    _check_unique(names, str(file.path))
    if not rows:
        raise _no_rows(str(file.path))
    return TableFile(file.path, file.name, "parquet"), names


def _csv(file: SourceFile, data: TableData) -> tuple[TableFile, list[str]]:
    path = file.path
    if path.stat().st_size == 0:
        raise UserError("is empty (0 bytes)", where=str(path), expected="a table")
    try:
        rows = numbered_rows(path, data, data.skip_lines)
        line, first = next(rows, (0, []))
        after, second = next(rows, (0, [])) if data.header else (line, first)
    except UnicodeDecodeError:
        raise decoding_error(path, data.encoding) from None
    except UnicodeError as error:
        advice = 'Name the order of its bytes: data.encoding = "utf-16-le" or "utf-16-be"'
        raise UserError(f"can't be decoded: {error}", where=str(path), advice=advice) from None
    except DAMAGE as error:
        raise UserError(f"the compressed data is damaged: {error}", where=str(path)) from None
    where = f"{path}:{line}" if line else str(path)
    if not second:
        raise _no_rows(where)
    if data.columns is not None and len(data.columns) != len(first):
        raise UserError(
            f"data.columns has {len(data.columns)} names, the file {len(first)} columns",
            where=where,
            expected=f"{len(first)} names",
        )
    names = data.columns or (first if data.header else [""] * len(first))
    names = [name.strip() or f"column_{n}" for n, name in enumerate(names)]
    if len(names) == 1:
        raise _one_column(where, first[0], data)
    _check_unique(names, where)
    # The header ends where the line before the first data row does, blank lines among them.
    return TableFile(path, file.name, "csv", after - 1), names


def _no_rows(where: str) -> UserError:
    return UserError("there are no rows in it", where=where, expected="a header and at least one row")


def _one_column(where: str, text: str, data: TableData) -> UserError:
    others = {d: text.count(d) for d in _DELIMITERS if d != data.delimiter and d in text}
    likely = max(others, key=lambda d: others[d]) if others else None
    return UserError(
        f"only one column is found, with {data.delimiter!r} as the delimiter",
        where=where,
        expected="a target and at least one more column",
        advice=f"Set data.delimiter = {likely!r}?" if likely else "Set data.delimiter if it is another one",
    )


def _check_unique(names: list[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        places = {name: [n + 1 for n, other in enumerate(names) if other == name] for name in twice[:_SHOWN]}
        told = "; ".join(f"{name!r} (columns {', '.join(map(str, at))})" for name, at in places.items())
        raise UserError(
            f"two columns have the same name: {told}",
            where=where,
            expected="a name for each column",
            advice="Rename them, or for a CSV file give all names in data.columns",
        )


def _disagreement(first: TableFile, names: list[str], other: TableFile, columns: list[str]) -> UserError:
    differing = next((n for n, (a, b) in enumerate(zip(names, columns, strict=False)) if a != b), None)
    if differing is None:
        what = f"it has {len(columns)} columns, {first.name} has {len(names)}"
    else:
        what = f"its column {differing + 1} is {columns[differing]!r}, in {first.name} it is {names[differing]!r}"
    return UserError(
        what, where=str(other.path), expected="the same columns in all files", advice="Choose files with data.files"
    )


def _check_names(data: TableData, names: list[str], file: TableFile) -> None:
    """That every column the recipe names is there."""
    for key, wanted in (("target", [data.target]), ("ignore", data.ignore), ("categories", data.categories)):
        for name in wanted:
            if name in names:
                continue
            lower = {n.lower(): n for n in reversed(names)}
            near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, 1, 0.4)]
            shown = ", ".join(repr(n) for n in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            advice = f"Did you mean {near[0]!r}?" if near else ""
            if file.format == "csv" and data.header and data.columns is None and all(map(_is_number, names)):
                advice = "The first line looks like data. If it is, set data.header = false"
            raise UserError(
                f"there is no column {name!r} in {file.name}",
                where=f"data.{key}",
                expected=f"one of {shown}",
                advice=advice,
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
