"""The files that the passes write: the cleaned CSV, the scratch file between passes, and the arrays of a part."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from groundup.data.table.columns import Plan

Doubles = NDArray[np.float64]
_PLAIN = pc.WriteOptions(include_header=False, quoting_style="none")
_QUOTED = pc.WriteOptions(include_header=False, quoting_style="needed")


class CleanedCsv:
    """A CSV file with a header, commas, and quotes only in blocks of rows that need some."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.file = path.open("wb")
        with path.open("w", newline="", encoding="utf-8") as header:
            csv.writer(header, lineterminator="\n").writerow(names)
        self.file.seek(path.stat().st_size)

    def write(self, batch: pa.RecordBatch, replaced: dict[str, pa.Array], keep: pa.Array) -> None:
        """Append the rows of `batch` where `keep` is true, with the columns `replaced`."""
        names = batch.schema.names
        columns = [_plain(replaced.get(name, batch.column(name))) for name in names]
        rows = pa.RecordBatch.from_arrays(columns, names)
        if keep.true_count != len(keep):
            rows = rows.filter(keep)
        out = pa.BufferOutputStream()
        try:
            pc.write_csv(rows, out, _PLAIN)
        except pa.ArrowInvalid:
            out = pa.BufferOutputStream()
            pc.write_csv(rows, out, _QUOTED)
        self.file.write(out.getvalue())

    def close(self) -> None:
        self.file.close()


def _plain(column: pa.Array) -> pa.Array:
    """The writer knows no dictionaries and no decimals; float32 it writes in short, which is another double."""
    if pa.types.is_float32(column.type):
        return column.cast(pa.float64())
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.cast(pa.string()) if pa.types.is_decimal(column.type) else column


class Scratch:
    """Rows between the passes, as an Arrow stream: all numbers of a row side by side, then the columns of strings."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.numbers, self.texts = len(plan.numeric), len(plan.categorical)
        row = pa.list_(pa.float64(), self.numbers)
        fields = [pa.field("numbers", row, nullable=False)]
        self.schema = pa.schema([*fields, *((f"text_{k}", pa.string()) for k in range(self.texts))])
        self.file = pa.OSFile(str(path), "wb")
        self.writer = pa.ipc.new_stream(self.file, self.schema)

    def write(self, values_BN: Doubles, texts: list[pa.Array]) -> None:
        rows = len(values_BN)
        flat = pa.array(np.ascontiguousarray(values_BN).reshape(-1))
        numbers = pa.Array.from_buffers(self.schema.field(0).type, rows, [None], children=[flat])
        self.writer.write_batch(pa.RecordBatch.from_arrays([numbers, *texts], schema=self.schema))

    def close(self) -> None:
        self.writer.close()
        self.file.close()


def read_scratch(path: Path, plan: Plan) -> Iterator[tuple[Doubles, list[pa.Array]]]:
    """The rows again, block by block: numbers [B, N], and the columns of strings.

    Read, not mapped: mapped pages would count as this process's memory until the file was read through.
    """
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            flat = batch.column(0).flatten().to_numpy()
            yield flat.reshape(batch.num_rows, len(plan.numeric)), batch.columns[1:]


class Part:
    """The arrays of one part, written as rows come."""

    def __init__(self, folder: Path, rows: int, width: int) -> None:
        folder.mkdir()
        self.folder, self.rows = folder, rows
        self.file = (folder / "features.npy").open("wb")
        _header(self.file, (rows, width), np.dtype(np.float32))

    def write(self, features_BF: NDArray[np.float32]) -> None:
        self.file.write(np.ascontiguousarray(features_BF).data)

    def close(self, labels: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.file.close()
        np.save(self.folder / "labels.npy", labels)
        np.save(self.folder / "rows.npy", rows)


def _header(file: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
