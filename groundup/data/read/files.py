"""The documents of one file, one after another, with what can't be read counted and told by place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from groundup.data.read.compression import DAMAGE
from groundup.data.read.encoding import check_encoding, decoding_error, open_text
from groundup.data.read.formats import csv_texts, jsonl_texts, parquet_texts
from groundup.data.read.malformed import Malformed
from groundup.data.read.sources import READABLE, SourceFile, file_format
from groundup.errors import UserError
from groundup.recipe.language import Source

_CHUNK_CHARS = 1 << 20

__all__ = ["Document", "Malformed", "count_bytes", "read_documents", "split_text"]


@dataclass(slots=True)
class Document:
    """One text and where it comes from: source, file (its name within the source), record (within the file).

    Records count from 0 with the malformed ones among them, so mending a record renumbers none.
    """

    source: str
    file: str
    record: int
    text: str


def count_bytes(file: SourceFile) -> int:
    """The file's size on disk, bytes."""
    return file.path.stat().st_size


def read_documents(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """Yield the documents of `file` in their order. Only a text that isn't cut up is in memory as a whole.

    Malformed records go to `malformed`, which counts all records; the caller decides with `malformed.check`.
    `on_bytes` is told how many bytes on disk each read consumed; over a whole file they are `count_bytes`.

    Raises UserError for a text that doesn't decode, a missing text field, a file damaged or unreadable.
    """
    kind = file_format(file.path.name)
    if kind is None:
        raise UserError("files of this kind can't be read", where=str(file.path), expected=READABLE)
    if kind != "parquet":
        check_encoding(source.encoding, file.path)
    try:
        for record, text in _READERS[kind](file, source, malformed, on_bytes):
            malformed.total += 1
            yield Document(file.source, file.name, record, text)
    except UnicodeDecodeError:
        raise decoding_error(file.path, source.encoding) from None
    except (*DAMAGE, pa.ArrowException, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(
            f"can't be read: {reason}",
            where=str(file.path),
            advice="If it may be read at all, the file is damaged or cut short: fetch or write it again",
        ) from error


def _text_files(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[int, str]]:
    """The whole text, or its pieces that hold more than white space."""
    if source.split_on is None:
        with open_text(file.path, source.encoding, "", on_bytes) as lines:
            yield 0, lines.read()
        return
    if not source.split_on:
        raise UserError("split_on is empty", where=str(file.path), expected="the string between two documents")
    # Line ends become \n here, so that a split_on with line breaks fits files from every system.
    with open_text(file.path, source.encoding, None, on_bytes) as lines:
        chunks = iter(lambda: lines.read(_CHUNK_CHARS), "")
        pieces = (piece for piece in split_text(chunks, source.split_on) if piece.strip())
        yield from enumerate(pieces)


def split_text(chunks: Iterable[str], separator: str) -> Iterator[str]:
    """What `"".join(chunks).split(separator)` gives, holding no more than one piece and one chunk."""
    held: list[str] = []
    rest = ""
    # A separator may begin in one chunk and end in the next: so many characters are looked at again.
    overlap = len(separator) - 1
    for chunk in chunks:
        *whole, last = (rest + chunk).split(separator)
        for piece in whole:
            yield "".join([*held, piece])
            held.clear()
        cut = max(0, len(last) - overlap)
        held.append(last[:cut])
        rest = last[cut:]
    yield "".join([*held, rest])


_READERS = {"text": _text_files, "jsonl": jsonl_texts, "csv": csv_texts, "parquet": parquet_texts}
