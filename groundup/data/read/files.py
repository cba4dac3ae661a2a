"""The documents of a part of a file, one after another, with what can't be read counted and told by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from groundup.data.read.compression import DAMAGE, line_of_damage
from groundup.data.read.encoding import check_encoding, decoding_error, undecodable
from groundup.data.read.formats import csv_texts, jsonl_texts
from groundup.data.read.malformed import Malformed
from groundup.data.read.part import Part
from groundup.data.read.pieces import text_pieces
from groundup.data.read.sources import READABLE, SourceFile, file_format
from groundup.data.read.web import html_texts, warc_texts
from groundup.errors import UserError
from groundup.recipe.language import Source


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
        raise UserError(
            f"can't be read: {_reason(error)}",
            where=str(file.place),
            advice="If it may be read at all, the file is damaged or cut short: fetch or write it again",
        ) from error


@contextmanager
def as_far_as_sound(file: SourceFile, source: Source, malformed: Malformed, rows: Callable[[], int]) -> Iterator[None]:
    """Within `reading`: where a file doesn't decode, is damaged or cut short, its rest counts as one malformed record.
    What was decoded together with the damage (8 KB of text, 256 rows at most) is lost with it. `rows`: how many rows of
    a Parquet file were read. What the disk or the net can't give is an error still."""
    try:
        yield
    except UnicodeDecodeError:
        line, error = undecodable(file.place, source.encoding)
        malformed.add(file, line, f"{error.what}; the rest of the file is left out. {error.advice}")
    except (*DAMAGE, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and not is_damage(error, file):
            raise
        parquet = file_format(file.path.name) == "parquet"
        line = rows() + 1 if parquet else line_of_damage(file.place)
        malformed.add(file, line, f"damaged or cut short: {_reason(error)}; the rest of the file is left out")


def is_damage(error: OSError, file: SourceFile) -> bool:
    """Whether the file's content is at fault, not what holds it: readers of formats raise OSError without a number."""
    return error.errno is None and file.url is None


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


_READERS = {"text": text_pieces, "jsonl": jsonl_texts, "csv": csv_texts, "html": html_texts, "warc": warc_texts}
