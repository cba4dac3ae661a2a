"""Files for the tests of reading, and their documents."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from groundup.data.read.files import Document, Malformed, read_documents
from groundup.data.read.sources import SourceFile
from groundup.errors import UserError
from groundup.recipe.language import Source


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
