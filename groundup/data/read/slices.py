"""Slices: what is read by one task. Parts of large files, and small files together.

Plain .jsonl files in UTF-8 are cut at line ends, Parquet files at row groups; others are read whole. A document's
source, file, record and offset are the same however the files are sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groundup.data.read.encoding import is_utf8
from groundup.data.read.files import as_far_as_sound, is_damage, read_part, reading
from groundup.data.read.malformed import Malformed
from groundup.data.read.parquet import open_parquet, parquet_arrays
from groundup.data.read.part import Part
from groundup.data.read.scan import cut_lines
from groundup.data.read.sources import COMPRESSIONS, SourceFile, file_format
from groundup.errors import UserError
from groundup.recipe.language import Source

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("record", pa.int64()),
        ("offset", pa.int64()),
        ("text", pa.large_string()),
    ]
)
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 1 << 16
# How many bytes of text a compressed one is taken for, so that slices of every format take about as long.
_EXPANSION = 4


@dataclass(frozen=True)
class SlicePart:
    """A part of a file, the bytes that it has on disk, and the state that the file was in when it was sliced."""

    part: Part
    bytes: int
    size: int
    version: str


@dataclass(frozen=True)
class Slice:
    """Parts of the files of one source, read one after another."""

    parts: tuple[SlicePart, ...]

    @property
    def bytes(self) -> int:
        """On disk; what `on_bytes` of `read_slice` is told in all."""
        return sum(part.bytes for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """All there is to it, for JSON. Size and version of the files are in it, so it is a fingerprint too."""
        return {
            "parts": [
                {
                    "source": p.part.file.source,
                    "name": p.part.file.name,
                    # A path may hold bytes that are no text.
                    "path": str(p.part.file.path).encode(errors="surrogateescape").decode("latin-1"),
                    "url": p.part.file.url,
                    "start": p.part.start,
                    "end": p.part.end,
                    "record": p.part.record,
                    "line": p.part.line,
                    "bytes": p.bytes,
                    "size": p.size,
                    "version": p.version,
                }
                for p in self.parts
            ]
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Slice:
        """What `as_dict` was called on."""
        return cls(tuple(_part_from(entry) for entry in value["parts"]))


def _part_from(entry: dict[str, Any]) -> SlicePart:
    path = Path(entry["path"].encode("latin-1").decode(errors="surrogateescape"))
    file = SourceFile(path, entry["name"], entry["source"], entry["url"])
    part = Part(file, entry["start"], entry["end"], entry["record"], entry["line"])
    return SlicePart(part, entry["bytes"], entry["size"], entry["version"])


def slice_files(
    files: list[SourceFile], source: Source, size: int, on_bytes: Callable[[int], None] | None = None
) -> list[Slice]:
    """The slices of the files of one source, in their order, each of about `size` bytes of text where files allow it.
    `on_bytes` is told how many bytes have been looked at.

    Files that are to be cut are looked at: .jsonl is read once to count its lines, of Parquet the footer is read.
    Raises UserError where a file can't be read.
    """
    slices: list[Slice] = []
    group: list[SlicePart] = []
    filled = 0
    for file in files:
        with reading(file, source):
            for part, weight in _parts(file, source, size, on_bytes):
                if group and filled + weight > size * 3 // 2:
                    slices.append(Slice(tuple(group)))
                    group, filled = [], 0
                group.append(part)
                filled += weight
                if filled >= size:
                    slices.append(Slice(tuple(group)))
                    group, filled = [], 0
    return [*slices, Slice(tuple(group))] if group else slices


def _parts(
    file: SourceFile, source: Source, size: int, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[SlicePart, int]]:
    """The parts of `file`, and for each about how many bytes of text it holds."""
    on_disk, version = file.state()
    kind = file_format(file.path.name)
    compressed = file.path.suffix.lower() in COMPRESSIONS
    if kind == "jsonl" and not compressed and is_utf8(source.encoding) and on_disk > size * 3 // 2:
        for part in cut_lines(file, size, on_bytes):
            assert part.end is not None
            taken = part.end - part.start
            yield SlicePart(part, taken, on_disk, version), taken
    elif kind == "parquet":
        for part, taken, weight in _row_groups(file, source.text_field, size, on_disk):
            yield SlicePart(part, taken, on_disk, version), weight
    else:
        yield SlicePart(Part(file), on_disk, on_disk, version), on_disk * (_EXPANSION if compressed else 1)


def _row_groups(file: SourceFile, field: str, size: int, on_disk: int) -> Iterator[tuple[Part, int, int]]:
    """Parts of whole row groups, with the bytes on disk and of text that each stands for."""
    try:
        parquet = open_parquet(file)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and not is_damage(error, file):
            raise
        yield Part(file), on_disk, on_disk  # its reader counts it as malformed
        return
    with parquet:
        metadata = parquet.metadata
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        weights = [_text_bytes(metadata.row_group(n), field) for n in range(metadata.num_row_groups)]
    before = [0, *np.cumsum(rows, dtype=np.int64).tolist()]
    start, weight = 0, 0
    for group, bytes_ in enumerate(weights):
        weight += bytes_
        last = group + 1 == len(weights)
        if weight >= size or last:
            taken = on_disk * (before[group + 1] - before[start]) // max(1, before[-1])
            yield Part(file, start, group + 1, before[start]), taken, weight
            start, weight = group + 1, 0
    if not weights:
        yield Part(file), on_disk, 0


def _text_bytes(group: Any, field: str) -> int:
    columns = [group.column(n) for n in range(group.num_columns)]
    sizes = [column.total_uncompressed_size for column in columns if column.path_in_schema == field]
    return sum(sizes) if sizes else int(group.total_byte_size)


def read_slice(
    slice_: Slice, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None = None
) -> Iterator[pa.RecordBatch]:
    """The documents of a slice in batches of a few MB, with the columns of `DOCUMENTS`; id is SOURCE/FILE#RECORD.

    Malformed records go to `malformed`, which counts all records; the rest of a file that is damaged, cut short or
    doesn't decode is one of them. `on_bytes` is told of bytes read on disk, `slice_.bytes` in all. Raises UserError for
    a missing text field, a file that can't be read, or one that is not what it was when it was sliced.
    """
    for piece in slice_.parts:
        told = _Told(on_bytes, piece.bytes)
        file = piece.part.file
        with reading(file, source):
            if file.state() != (piece.size, piece.version):
                raise UserError(
                    "has changed since this step began", where=str(file.place), advice="Start the step again"
                )
            if file_format(file.path.name) == "parquet":
                yield from _parquet_batches(piece.part, source, malformed, told)
            else:
                yield from _batches(piece.part, source, malformed, told)
        told.finish()


class _Told:
    """Passes bytes on up to a number in all: a reader of a part reads ahead beyond its end."""

    def __init__(self, on_bytes: Callable[[int], None] | None, left: int) -> None:
        self.on_bytes, self.left = on_bytes, left

    def __call__(self, count: int) -> None:
        count = min(count, self.left)
        self.left -= count
        if self.on_bytes is not None and count:
            self.on_bytes(count)

    def finish(self) -> None:
        self(self.left)


def _batches(part: Part, source: Source, malformed: Malformed, told: _Told) -> Iterator[pa.RecordBatch]:
    records: list[int] = []
    offsets: list[int] = []
    texts: list[str] = []
    chars = 0
    with as_far_as_sound(part.file, source, malformed, lambda: 0):
        for record, offset, text in read_part(part, source, malformed, told):
            records.append(record)
            offsets.append(offset)
            texts.append(text)
            chars += len(text)
            if chars >= _BATCH_BYTES or len(texts) >= _BATCH_ROWS:
                yield _batch(part.file, records, offsets, pa.array(texts, pa.large_string()))
                records, offsets, texts, chars = [], [], [], 0
    if texts:
        yield _batch(part.file, records, offsets, pa.array(texts, pa.large_string()))


def _parquet_batches(part: Part, source: Source, malformed: Malformed, told: _Told) -> Iterator[pa.RecordBatch]:
    rows: list[Any] = []
    texts: list[pa.LargeStringArray] = []
    size, before = 0, malformed.total
    with as_far_as_sound(part.file, source, malformed, lambda: part.record + malformed.total - before):
        for numbers, array in parquet_arrays(part, source, malformed, told):
            rows.append(numbers)
            texts.append(array)
            size += array.nbytes
            if size >= _BATCH_BYTES:
                joined = np.concatenate(rows)
                yield _batch(part.file, joined, joined, pa.concat_arrays(texts))
                rows, texts, size = [], [], 0
    if any(map(len, rows)):
        joined = np.concatenate(rows)
        yield _batch(part.file, joined, joined, pa.concat_arrays(texts))


def _batch(file: SourceFile, records: Any, offsets: Any, texts: pa.LargeStringArray) -> pa.RecordBatch:
    record = pa.array(records, pa.int64())
    count = len(texts)
    ids = pc.binary_join_element_wise(f"{file.source}/{file.name}", record.cast(pa.string()), "#")
    columns = [ids, pa.repeat(file.source, count), pa.repeat(file.name, count)]
    return pa.RecordBatch.from_arrays([*columns, record, pa.array(offsets, pa.int64()), texts], schema=DOCUMENTS)
