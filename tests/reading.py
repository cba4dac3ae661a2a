"""Files for the tests of reading, and their documents."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from groundup.data.read.files import read_part, reading
from groundup.data.read.malformed import Malformed
from groundup.data.read.parquet import parquet_arrays
from groundup.data.read.part import Part
from groundup.data.read.sources import SourceFile, file_format
from groundup.errors import UserError
from groundup.recipe.language import Source


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


def read_documents(
    file: SourceFile, source: Source, malformed: Malformed, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Document]:
    """Yield the documents of `file` in their order. Only a text that isn't cut up is in memory as a whole.

    Malformed records go to `malformed`, which counts all records; the caller decides with `malformed.check`.
    `on_bytes` is told how many bytes on disk each read consumed; over a whole file they are its size.

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


def texts_of(path: Path, malformed: Malformed | None = None, **options: Any) -> list[str]:
    return [document.text for document in documents_of(path, malformed, **options)]


def documents_of(path: Path, malformed: Malformed | None = None, **options: Any) -> list[Document]:
    source = Source(path=str(path), **options)
    file = SourceFile(path, path.name, "src")
    return list(read_documents(file, source, malformed if malformed is not None else Malformed()))


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        documents_of(path, **options)
    return str(caught.value)


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


def csv_bytes(texts: list[str]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    return out.getvalue().encode()


def parquet_bytes(texts: list[str], kind: pa.DataType | None = None) -> bytes:
    out = io.BytesIO()
    column = pa.array(texts, kind or pa.string())
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": column}), out, row_group_size=3)
    return out.getvalue()


def store(path: Path, content: bytes) -> Path:
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.ZstdCompressor().compress(content)
    path.write_bytes(content)
    return path
