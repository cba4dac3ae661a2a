"""The texts in files of records: JSON lines, CSV and Parquet.

Each reader yields (record, text), records counted from 0 with the malformed ones among them, which go to
`malformed`. None holds more of a file than a few records, or a few pages of one column.
"""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from groundup.data.read.compression import open_stream
from groundup.data.read.encoding import is_utf8, open_text
from groundup.data.read.malformed import Malformed
from groundup.data.read.sources import SourceFile
from groundup.errors import UserError
from groundup.recipe.language import Source

_OBJECTS_WITHOUT_FIELD = 100
_FIELDS_SHOWN = 20
# Characters. An unclosed quote makes one field of all that follows, which must not fill the memory.
_MAX_CSV_FIELD = 1 << 26
_PARQUET_ROWS = 256
_PARQUET_BUFFER = 1 << 20
_JSON_TYPES = {"NoneType": "null", "bool": "a truth value", "list": "a list", "str": "a string"}


def jsonl_texts(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, str]]:
    """One JSON object a line; blank lines don't count.

    Raises UserError if none of the first 100 objects, or none at all, has the text field.
    """
    field = source.text_field
    others: dict[str, None] = {}
    record, without, found = -1, 0, False
    with _open_lines(file, source, on_bytes) as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            record += 1
            try:
                value: Any = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                malformed.add(file, number, f"not JSON: {error.msg} (column {error.colno})")
                continue
            if not isinstance(value, dict):
                malformed.add(file, number, f"{_json_type(value)}, not an object")
                continue
            text = value.get(field)
            found = found or field in value
            if isinstance(text, str):
                yield record, text
            elif field in value:
                malformed.add(file, number, f"field {field!r} is {_json_type(text)}, not a string")
            else:
                malformed.add(file, number, f"field {field!r} isn't there")
                without += 1
                others.update(dict.fromkeys(value))
                if not found and without == _OBJECTS_WITHOUT_FIELD:
                    break
    if without and not found:
        raise _missing_field(file, "field", field, others)


def csv_texts(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, str]]:
    """Comma-separated rows under a header; quoted fields may hold line ends; blank lines don't count.

    Raises UserError if the header lacks the text field.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CSV_FIELD))
    with open_text(file.path, source.encoding, "", on_bytes) as lines:
        rows = csv.reader(lines, strict=True)
        header: list[str] | None = None
        column = record = -1
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                if header is None:
                    where = f"{file.path}:{number}"
                    raise UserError(f"the header can't be read: {error}", where=where) from error
                record += 1
                malformed.add(file, number, f"not CSV: {error}")
                continue
            if not row:
                continue
            if header is None:
                header = row
                if source.text_field not in header:
                    raise _missing_field(file, "column", source.text_field, header)
                column = header.index(source.text_field)
                continue
            record += 1
            if len(row) != len(header):
                malformed.add(file, number, f"{len(row)} fields, but the header has {len(header)}")
            else:
                yield record, row[column]


def parquet_texts(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, str]]:
    """One column of strings.

    Raises UserError if there is no such column of strings, and pyarrow's errors for a damaged file.
    """
    with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=_PARQUET_BUFFER) as parquet:
        schema = parquet.schema_arrow
        if source.text_field not in schema.names:
            raise _missing_field(file, "column", source.text_field, schema.names)
        kind = schema.field(source.text_field).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if values not in (pa.string(), pa.large_string(), pa.string_view()):
            raise UserError(
                f"column {source.text_field!r} holds {kind}",
                where=str(file.path),
                expected="a column of strings",
            )
        size, rows, told = file.path.stat().st_size, parquet.metadata.num_rows, 0
        record = -1
        for batch in parquet.iter_batches(_PARQUET_ROWS, columns=[source.text_field], use_threads=False):
            for value in batch.column(0):
                record += 1
                try:
                    text = value.as_py()
                except UnicodeDecodeError:
                    malformed.add(file, record + 1, f"column {source.text_field!r} is not UTF-8")
                    continue
                if text is None:
                    malformed.add(file, record + 1, f"column {source.text_field!r} is null")
                else:
                    yield record, text
            if on_bytes is not None:
                # A column's pages lie scattered in the file: the share of rows stands for the share of bytes.
                consumed = size * (record + 1) // rows
                on_bytes(consumed - told)
                told = consumed
        if on_bytes is not None and told < size:
            on_bytes(size - told)


def _open_lines(file: SourceFile, source: Source, on_bytes: Callable[[int], None] | None) -> IO[Any]:
    """Lines as orjson takes them: str, or bytes of UTF-8, so that a line that isn't UTF-8 spoils no other."""
    if not is_utf8(source.encoding):
        return open_text(file.path, source.encoding, "\n", on_bytes)
    stream = open_stream(file.path, on_bytes)
    if stream.peek(3)[:3] == codecs.BOM_UTF8:
        stream.read(3)
    return stream


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value).__name__, "a number")


def _missing_field(file: SourceFile, kind: str, field: str, found: Iterable[str]) -> UserError:
    names = list(found)
    near = difflib.get_close_matches(field, names, n=1)
    more = ", ..." if len(names) > _FIELDS_SHOWN else ""
    there = ", ".join(repr(name) for name in names[:_FIELDS_SHOWN]) + more
    return UserError(
        f"{kind} {field!r} isn't there; found: {there or 'none'}",
        where=str(file.path),
        expected=f"the {kind} with the text, as named by text_field",
        advice=f"Did you mean text_field = {near[0]!r}?" if near else "Set text_field for this source",
    )
