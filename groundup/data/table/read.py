"""The rows of a table's files as Arrow record batches: CSV block by block, Parquet by parts of row groups.

None of this holds more of a file than a few blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc
import pyarrow.parquet as pq

from groundup.data.read.compression import DAMAGE, open_stream
from groundup.data.read.encoding import decoding_error, is_utf8, pass_mark
from groundup.data.table.layout import Layout, TableFile
from groundup.data.table.places import check_quotes, place_of_row, ragged
from groundup.errors import UserError
from groundup.recipe.table import TableData

BLOCK_BYTES = 8 << 20
_VALUE_BYTES = 8
_PROBED_ROWS = 64
Types = dict[str, pa.DataType]


class KindChanged(Exception):
    """A value is not of the type that its column was taken to have."""


@dataclass(frozen=True)
class Block:
    """Some rows of a file, `first` being the number of the first one within it, from 0."""

    batch: pa.RecordBatch
    file: TableFile
    first: int


def blocks(
    layout: Layout,
    data: TableData,
    types: Types,
    names: list[str],
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Block]:
    """All rows of the columns `names`, with `types` (CSV columns without one are inferred, file by file).

    Raises UserError where a file is damaged or has a ragged row, KindChanged where a value is not of its type.
    """
    for file in layout.files:
        first = 0
        batches = (_csv if file.format == "csv" else _parquet)(file, layout, data, types, names, on_bytes)
        for batch in batches:
            yield Block(batch, file, first)
            first += batch.num_rows


def place(file: TableFile, data: TableData, row: int) -> str:
    """FILE:LINE of a row of a CSV file, FILE, row N (from 1) of a Parquet file. `row` from 0 within the file."""
    return place_of_row(file.path, data, file.skip, row) if file.format == "csv" else f"{file.path}, row {row + 1}"


class _Source:
    """A file's decompressed bytes, in the one method that the reader calls. `quotes` counts those read so far."""

    def __init__(self, file: TableFile, encoding: str, on_bytes: Callable[[int], None] | None) -> None:
        self.stream = pass_mark(open_stream(file.path, on_bytes), encoding)
        self.quotes = 0
        self.closed = False

    def read(self, count: int) -> bytes:
        content = self.stream.read(count)
        self.quotes += content.count(b'"')
        return content

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self.stream.close()


def _csv(
    file: TableFile,
    layout: Layout,
    data: TableData,
    types: Types,
    names: list[str],
    on_bytes: Callable[[int], None] | None,
) -> Iterator[pa.RecordBatch]:
    source = _Source(file, data.encoding, on_bytes)
    missing, line_ends = list(data.missing_values), False
    # Numbers may have blanks around them; so may what stands for a missing one, as in "1, ?".
    missing = [" " * a + text + " " * b for text in missing for a in range(9) for b in range(9)]
    try:
        reader = pc.open_csv(
            source,
            read_options=pc.ReadOptions(
                block_size=BLOCK_BYTES,
                skip_rows=file.skip,
                column_names=layout.names,
                encoding="utf8" if is_utf8(data.encoding) else data.encoding,
            ),
            parse_options=pc.ParseOptions(delimiter=data.delimiter, newlines_in_values=True),
            convert_options=pc.ConvertOptions(
                include_columns=names,
                column_types=types,
                null_values=missing,
                strings_can_be_null=True,
                decimal_point=data.decimal,
            ),
        )
        for batch in reader:
            line_ends = line_ends or (source.quotes > 0 and _has_line_ends(batch))
            yield batch
    except UnicodeDecodeError:
        raise decoding_error(file.path, data.encoding) from None
    except DAMAGE as error:
        raise UserError(f"the compressed data is damaged: {error}", where=str(file.path)) from None
    except pa.ArrowInvalid as error:
        raise _explained(str(error), file, layout, data) from None
    finally:
        source.close()
    if source.quotes % 2 or line_ends:
        check_quotes(file.path, data, file.skip)


def _has_line_ends(batch: pa.RecordBatch) -> bool:
    """Whether a text holds one: as it should, or because a quote that is never closed met the next of its kind."""
    texts = (column for column in batch.columns if pa.types.is_string(column.type))
    return any(compute.any(compute.match_substring_regex(column, r"[\r\n]")).as_py() for column in texts)


def _explained(message: str, file: TableFile, layout: Layout, data: TableData) -> Exception:
    """The reader's error, for the user."""
    try:
        if "UTF8" in message:
            return decoding_error(file.path, data.encoding)
        if "conversion error" in message:
            return KindChanged(message)
        found = ragged(file.path, data, file.skip, layout.names)
    except UnicodeDecodeError:
        return decoding_error(file.path, data.encoding)
    except UserError as error:
        return error
    if "straddling" in message:
        return UserError(
            f"a row is longer than {BLOCK_BYTES >> 20} MB",
            where=str(file.path),
            advice="A quote that is never closed makes such a row",
        )
    return found or UserError(f"can't be read as CSV: {message}", where=str(file.path))


def _parquet(
    file: TableFile,
    layout: Layout,
    data: TableData,
    types: Types,
    names: list[str],
    on_bytes: Callable[[int], None] | None,
) -> Iterator[pa.RecordBatch]:
    size = file.path.stat().st_size
    try:
        # pyarrow would otherwise hold a whole row group's bytes.
        with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=1 << 20) as parquet:
            rows, done, told = parquet.metadata.num_rows, 0, 0
            schema = parquet.schema_arrow
            for name in names:
                if types and schema.field(name).type != types[name]:
                    raise UserError(
                        f"column {name!r} holds {schema.field(name).type} here, {types[name]} in the first file",
                        where=str(file.path),
                        expected="the same types in all files",
                    )
            for batch in parquet.iter_batches(_rows_at_once(parquet, names), columns=names):
                batch.validate(full=True)  # texts that are no UTF-8
                yield from _pieces(batch.select(names))
                done += batch.num_rows
                if on_bytes is not None:
                    # Columns lie apart in the file: the share of rows stands for the share of bytes.
                    on_bytes(size * done // rows - told)
                    told = size * done // rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"can't be read as Parquet: {error}", where=str(file.path)) from None


def _rows_at_once(parquet: pq.ParquetFile, names: list[str]) -> int:
    """Rows that make about one block, by what the columns take in the file and what the first rows take in memory,
    which is more where texts repeat."""
    wanted, metadata = set(names), parquet.metadata
    first = next(parquet.iter_batches(_PROBED_ROWS, columns=names))
    row_bytes: int = max(_VALUE_BYTES * len(names), first.nbytes // first.num_rows)
    for group in (metadata.row_group(g) for g in range(metadata.num_row_groups)):
        columns = (group.column(c) for c in range(group.num_columns))
        held = sum(c.total_uncompressed_size for c in columns if c.path_in_schema in wanted)
        row_bytes = max(row_bytes, held // max(1, group.num_rows))
    return max(1, BLOCK_BYTES // row_bytes)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Of at most a block's size, where rows are of very different sizes and one is no larger."""
    if batch.nbytes <= BLOCK_BYTES or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def parquet_types(layout: Layout) -> dict[str, Any]:
    """The types that the first Parquet file's columns have."""
    with pq.ParquetFile(layout.files[0].path) as parquet:
        schema = parquet.schema_arrow
        return {name: schema.field(name).type for name in layout.names}
