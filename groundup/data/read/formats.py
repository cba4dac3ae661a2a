"""The texts in files of records: JSON lines and CSV.

Each reader yields (record, offset, text): records counted from 0 with the malformed ones among them, which go to
`malformed`; the byte of the decompressed file where the record begins. None holds more of a file than a few records.
"""

from __future__ import annotations

import codecs
import csv
import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import orjson

from groundup.data.read.compression import open_stream
from groundup.data.read.encoding import byte_sizes, is_utf8, open_text
from groundup.data.read.malformed import Malformed
from groundup.data.read.part import Part
from groundup.data.read.sources import SourceFile
from groundup.errors import UserError
from groundup.recipe.language import Source

_OBJECTS_WITHOUT_FIELD = 100
_FIELDS_SHOWN = 20
# Characters. An unclosed quote makes one field of all that follows, which must not fill the memory.
_MAX_CSV_FIELD = 1 << 26
_JSON_TYPES = {"NoneType": "null", "bool": "a truth value", "list": "a list", "str": "a string"}


def jsonl_texts(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, int, str]]:
    """One JSON object a line; blank lines don't count.

    Raises UserError if none of the first 100 objects of a file, or none at all, has the text field.
    """
    file, field = part.file, source.text_field
    others: dict[str, None] = {}
    # Of a later part the objects can't tell whether the field is anywhere in the file.
    record, without, found = part.record - 1, 0, part.start > 0
    lines, after, size = _open_lines(part, source, on_bytes)
    with lines:
        for number, line in enumerate(lines, part.line):
            offset = after
            if part.end is not None and offset >= part.end:
                break
            after += size(line)
            if line.isspace():
                continue
            record += 1
            try:
                value: Any = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                malformed.add(file, number, f"not JSON: {error.msg} (column {error.colno})", line)
                continue
            if not isinstance(value, dict):
                malformed.add(file, number, f"{_json_type(value)}, not an object", line)
                continue
            text = value.get(field)
            found = found or field in value
            if isinstance(text, str):
                yield record, offset, text
            elif field in value:
                malformed.add(file, number, f"field {field!r} is {_json_type(text)}, not a string", line)
            else:
                malformed.add(file, number, f"field {field!r} isn't there", line)
                without += 1
                others.update(dict.fromkeys(value))
                if not found and without == _OBJECTS_WITHOUT_FIELD:
                    break
    if without and not found:
        raise missing_field(file, "field", field, others)


def csv_texts(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, int, str]]:
    """Comma-separated rows under a header; quoted fields may hold line ends; blank lines don't count.

    Raises UserError if the header lacks the text field.
    """
    file, after = part.file, 0

    def counted(lines: Iterable[str]) -> Iterator[str]:
        nonlocal after
        for line in lines:
            after += size(line)
            yield line

    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CSV_FIELD))
    after, size = byte_sizes(file.place, source.encoding)
    with open_text(file.place, source.encoding, "", on_bytes) as lines:
        rows = csv.reader(counted(lines), strict=True)
        header: list[str] | None = None
        column = record = -1
        while True:
            # The csv module asks for no line before it needs it, so this is where the row begins.
            number, offset = rows.line_num + 1, after
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                if header is None:
                    where = f"{file.place}:{number}"
                    raise UserError(f"the header can't be read: {error}", where=where) from error
                record += 1
                malformed.add(file, number, f"not CSV: {error}")
                continue
            if not row:
                continue
            if header is None:
                header = row
                if source.text_field not in header:
                    raise missing_field(file, "column", source.text_field, header)
                column = header.index(source.text_field)
                continue
            record += 1
            if len(row) != len(header):
                malformed.add(file, number, f"{len(row)} fields, but the header has {len(header)}", ",".join(row))
            else:
                yield record, offset, row[column]


def _open_lines(
    part: Part, source: Source, on_bytes: Callable[[int], None] | None
) -> tuple[IO[Any], int, Callable[[Any], int]]:
    """Lines as orjson takes them: str, or bytes of UTF-8, so that a line that isn't UTF-8 spoils no other. With them
    the byte of the first, and what measures a line."""
    place = part.file.place
    if not is_utf8(source.encoding):
        first, size = byte_sizes(place, source.encoding)
        return open_text(place, source.encoding, "\n", on_bytes), first, size
    stream = open_stream(place, on_bytes, part.start)
    marked = part.start == 0 and stream.peek(3)[:3] == codecs.BOM_UTF8
    if marked:
        stream.read(3)
    return stream, 3 if marked else part.start, len


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value).__name__, "a number")


def missing_field(file: SourceFile, kind: str, field: str, found: Iterable[str]) -> UserError:
    """What to say of a file without the text field; `kind`: what such a field is called in it."""
    names = list(found)
    near = difflib.get_close_matches(field, names, n=1)
    more = ", ..." if len(names) > _FIELDS_SHOWN else ""
    there = ", ".join(repr(name) for name in names[:_FIELDS_SHOWN]) + more
    return UserError(
        f"{kind} {field!r} isn't there; found: {there or 'none'}",
        where=str(file.place),
        expected=f"the {kind} with the text, as named by text_field",
        advice=f"Did you mean text_field = {near[0]!r}?" if near else "Set text_field for this source",
    )
