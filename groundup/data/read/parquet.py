"""The texts in a column of a Parquet file, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groundup.data.read.compression import open_stream
from groundup.data.read.formats import missing_field
from groundup.data.read.malformed import Malformed
from groundup.data.read.part import Part
from groundup.data.read.sources import SourceFile
from groundup.errors import UserError
from groundup.recipe.language import Source

_ROWS = 256
_BUFFER = 1 << 20


def parquet_arrays(
    part: Part, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[npt.NDArray[np.int64], pa.LargeStringArray]]:
    """Row numbers and texts, at most 256 at once. Rows that are null or not UTF-8 go to `malformed`, which counts the
    others too.

    Raises UserError if there is no such column of strings, and pyarrow's errors for a damaged file.
    """
    file, field = part.file, source.text_field
    with open_parquet(file) as parquet:
        _check_column(file, field, parquet.schema_arrow)
        groups = list(range(part.start, parquet.num_row_groups if part.end is None else part.end))
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
        size, told, done = file.state()[0], 0, 0
        if part.end is not None:
            size = size * rows // max(1, parquet.metadata.num_rows)
        for batch in parquet.iter_batches(_ROWS, row_groups=groups, columns=[field], use_threads=False):
            numbers = np.arange(part.record + done, part.record + done + len(batch), dtype=np.int64)
            yield _sound(numbers, batch.column(0), file, field, malformed)
            done += len(batch)
            if on_bytes is not None:
                # A column's pages lie scattered in the file: the share of rows stands for the share of bytes.
                consumed = size * done // rows
                on_bytes(consumed - told)
                told = consumed
        if on_bytes is not None and told < size:
            on_bytes(size - told)


def open_parquet(file: SourceFile) -> pq.ParquetFile:
    place: Any = file.path if file.url is None else open_stream(file.url)
    return pq.ParquetFile(place, pre_buffer=False, buffer_size=_BUFFER)


def _check_column(file: SourceFile, field: str, schema: pa.Schema) -> None:
    if field not in schema.names:
        raise missing_field(file, "column", field, schema.names)
    kind = schema.field(field).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if values not in (pa.string(), pa.large_string(), pa.string_view()):
        raise UserError(f"column {field!r} holds {kind}", where=str(file.place), expected="a column of strings")


def _sound(
    numbers: npt.NDArray[np.int64], column: pa.Array, file: SourceFile, field: str, malformed: Malformed
) -> tuple[npt.NDArray[np.int64], pa.LargeStringArray]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    good = pc.is_valid(column).to_numpy(zero_copy_only=False)
    try:
        column.validate(full=True)
        bad = np.zeros(0, np.int64)
    except pa.ArrowInvalid:
        bad = np.array([row for row in np.flatnonzero(good) if not _decodes(column[int(row)])], np.int64)
        good[bad] = False
    for row in np.flatnonzero(~good).tolist():
        reason = "is not UTF-8" if row in bad else "is null"
        record = column[row].as_buffer().to_pybytes() if row in bad else b""
        malformed.add(file, int(numbers[row]) + 1, f"column {field!r} {reason}", record)
    malformed.total += int(good.sum())
    if not good.all():
        numbers, column = numbers[good], column.filter(pa.array(good))
    return numbers, column.cast(pa.large_string())


def _decodes(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True
