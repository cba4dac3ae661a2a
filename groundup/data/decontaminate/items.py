"""The items of evaluation files: what a model will be asked, which therefore it must not have read."""

from __future__ import annotations

import csv
import difflib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from groundup.data.read.compression import DAMAGE, open_stream
from groundup.data.read.encoding import open_text
from groundup.data.read.sources import file_format
from groundup.errors import UserError

_MAX_CSV_FIELD = 1 << 26


def read_items(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(record, the texts of its fields, in NFC) of each item; of a text file, each line that isn't blank.

    A field may be nested, as in `choices.text`; a list gives a text each element. Fields of null or that an item
    doesn't have are passed over. Raises UserError if the file can't be read, or no item has one of the fields.
    """
    kind = file_format(path.name)
    readers = {"text": _lines, "jsonl": _objects, "csv": _rows, "parquet": _parquet}
    if kind not in readers:
        raise UserError("is no evaluation file", where=str(path), expected="text, JSON lines, CSV or Parquet")
    if kind != "text" and not fields:
        raise UserError("no field of the evaluation file is named", where=str(path), expected="at least one field")
    missing, names = set(fields), dict[str, None]()
    try:
        for record, item in readers[kind](path):
            texts: list[str] = [item] if isinstance(item, str) else []
            if isinstance(item, dict):
                names.update(dict.fromkeys(item))
                for field in fields:
                    found = list(_texts(item, field.split(".")))
                    missing -= {field} if found else set()
                    texts += found
            yield record, [unicodedata.normalize("NFC", text) for text in texts]
    except (*DAMAGE, pa.ArrowException, csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"can't be read: {error}", where=str(path)) from error
    if missing and kind != "text":
        field = min(missing)
        near = difflib.get_close_matches(field, list(names), n=1)
        raise UserError(
            f"no item has a text in field {field!r}; found: {', '.join(map(repr, names)) or 'none'}",
            where=str(path),
            advice=f"Did you mean {near[0]!r}?" if near else "",
        )


def _texts(value: Any, path: list[str]) -> Iterator[str]:
    """The texts under a nested field; a list on the way stands for each of its elements."""
    if isinstance(value, list):
        for element in value:
            yield from _texts(element, path)
    elif path:
        if isinstance(value, dict) and path[0] in value:
            yield from _texts(value[path[0]], path[1:])
    elif value is not None and not isinstance(value, dict):
        yield str(value)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_text(path, "utf-8", None, None) as lines:
        yield from enumerate(line for line in lines if line.strip())


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    record = 0
    with open_stream(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
            except orjson.JSONDecodeError as error:
                raise UserError(f"not JSON: {error.msg}", where=f"{path}:{number}:{error.colno}") from None
            if not isinstance(value, dict):
                raise UserError("not a JSON object", where=f"{path}:{number}")
            yield record, value
            record += 1


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CSV_FIELD))
    with open_text(path, "utf-8", "", None) as lines:
        yield from enumerate(csv.DictReader(lines, strict=True))


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with pq.ParquetFile(path) as parquet:
        rows = (row for batch in parquet.iter_batches(256, use_threads=False) for row in batch.to_pylist())
        yield from enumerate(rows)
