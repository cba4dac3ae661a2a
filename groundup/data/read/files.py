"""The documents of one file, one after another, with what can't be read counted and told by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from groundup.data.read.compression import DAMAGE
from groundup.data.read.encoding import check_encoding, decoding_error
from groundup.data.read.formats import csv_texts, jsonl_texts
from groundup.data.read.malformed import Malformed
from groundup.data.read.parquet import parquet_arrays
from groundup.data.read.part import Part
from groundup.data.read.pieces import split_text, text_pieces
from groundup.data.read.sources import READABLE, SourceFile, file_format
from groundup.data.read.web import html_texts, warc_texts
from groundup.errors import UserError
from groundup.recipe.language import Source

__all__ = ["Document", "Malformed", "count_bytes", "read_documents", "read_part", "reading", "split_text"]


@dataclass(slots=True)
class Document:
    """One text and where it comes from: source, file (its name within the source), record (within the file).

    Records count from 0 with the malformed ones among them, so mending a record renumbers none. `offset` is the byte
    of the decompressed file where the record begins, in a Parquet file its row.
    """

    source: str
    file: str
    record: int
    text: str
    offset: int = field(default=0, compare=False)


def count_bytes(file: SourceFile) -> int:
    """The file's size on disk, bytes."""
    return file.state()[0]


def read_documents(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """Yield the documents of `file` in their order. Only a text that isn't cut up is in memory as a whole.

    Malformed records go to `malformed`, which counts all records; the caller decides with `malformed.check`.
    `on_bytes` is told how many bytes on disk each read consumed; over a whole file they are `count_bytes`.

    Raises UserError for a text that doesn't decode, a missing text field, a file damaged or unreadable.
    """
    with reading(file, source):
        if file_format(file.path.name) == "parquet":
            for rows, texts in parquet_arrays(Part(file), source, malformed, on_bytes):
                for row, text in zip(rows.tolist(), texts, strict=True):
                    yield Document(file.source, file.name, row, text.as_py(), row)
            return
        for record, offset, text in read_part(Part(file), source, malformed, on_bytes):
            yield Document(file.source, file.name, record, text, offset)


def read_part(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[int, int, str]]:
    """(record, offset, text) of each document of a part of a file that is not Parquet; within `reading`."""
    kind = file_format(part.file.path.name)
    assert kind is not None
    for found in _READERS[kind](part, source, malformed, on_bytes):
        malformed.total += 1
        yield found


@contextmanager
def reading(file: SourceFile, source: Source) -> Iterator[None]:
    """UserErrors that tell the place, for all that goes wrong where `file` is read inside."""
    kind = file_format(file.path.name)
    if kind is None:
        raise UserError("files of this kind can't be read", where=str(file.place), expected=READABLE)
    if kind not in ("parquet", "warc"):
        check_encoding(source.encoding, file.place)
    try:
        yield
    except UnicodeDecodeError:
        raise decoding_error(file.place, source.encoding) from None
    except (*DAMAGE, pa.ArrowException, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"can't be read: {reason}",
            where=str(file.place),
            advice="If it may be read at all, the file is damaged or cut short: fetch or write it again",
        ) from error


_READERS = {"text": text_pieces, "jsonl": jsonl_texts, "csv": csv_texts, "html": html_texts, "warc": warc_texts}
