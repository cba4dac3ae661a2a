"""Read, clean, deduplicate and split: from source files to Parquet files of documents, in one streaming pass.

Every document that goes in either comes out in `documents/SPLIT-SOURCE.parquet` or stands in `dropped.parquet`
with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from groundup.console import Bar
from groundup.data.clean.text import clean
from groundup.data.read.files import Document, Malformed, count_bytes, read_documents
from groundup.data.read.sources import SourceFile
from groundup.errors import UserError
from groundup.recipe.language import Data

SPLITS = ("train", "validation")
DOCUMENTS = pa.schema([("id", pa.string()), ("file", pa.string()), ("record", pa.int64()), ("text", pa.large_string())])
DROPPED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("twin", pa.string())])
_ROW_GROUP_BYTES = 8 << 20


@dataclass
class Stage:
    """Counts and time of one stage; `dropped` by reason."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu

    def passed(self, size_in: int, size_out: int) -> None:
        self.documents_in += 1
        self.documents_out += 1
        self.bytes_in += size_in
        self.bytes_out += size_out

    def drop(self, reason: str, size_in: int) -> None:
        self.documents_in += 1
        self.bytes_in += size_in
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "seconds": round(self.seconds, 4), "cpu_seconds": round(self.cpu_seconds, 4)}


class ParquetRows:
    """A Parquet file written row by row, in row groups of bounded size. The file exists only if a row was added."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows: list[tuple[Any, ...]] = []
        self.bytes = 0
        self.writer: pq.ParquetWriter | None = None

    def add(self, row: tuple[Any, ...], size: int) -> None:
        self.rows.append(row)
        self.bytes += size
        if self.bytes >= _ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self.rows:
            return
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        columns = [pa.array(c, f.type) for c, f in zip(zip(*self.rows, strict=True), self.schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
        self.rows, self.bytes = [], 0

    def close(self) -> None:
        self.flush()
        if self.writer is not None:
            self.writer.close()


def split_of(digest: bytes, seed: int, validation_fraction: float) -> str:
    """The split of a document: a function of its text and the seed, so that copies never fall apart."""
    share = xxhash.xxh3_64_intdigest(digest, seed=seed) / 2**64
    return "validation" if share < validation_fraction else "train"


class DocumentPass:
    """The pass over one run's sources. `stages` and `counts` tell afterwards what happened."""

    def __init__(self, data: Data, seed: int, folder: Path) -> None:
        self.data, self.seed, self.folder = data, seed, folder
        self.read, self.clean = Stage("read"), Stage("clean")
        self.dedup, self.split = Stage("exact_dedup"), Stage("split")
        self.counts = {split: {"documents": 0, "bytes": 0} for split in SPLITS}
        self.seen: dict[bytes, str] = {}
        self.dropped = ParquetRows(folder / "dropped.parquet", DROPPED)

    @property
    def stages(self) -> list[Stage]:
        return [self.read, self.clean, *([self.dedup] if self.data.deduplicate else []), self.split]

    def run(self, sources: list[list[SourceFile]]) -> None:
        """All files of all sources. Raises UserError where too much is malformed or a split stays empty."""
        (self.folder / "documents").mkdir(parents=True, exist_ok=True)
        total = sum(count_bytes(f) for files in sources for f in files)
        with Bar("documents", total) as bar, Malformed(self.folder / "malformed.jsonl") as malformed:
            for index, files in enumerate(sources):
                self._source(index, files, malformed, bar)
        if malformed.count:
            self.read.dropped["malformed"] = malformed.count
            self.read.documents_in += malformed.count
        self.dropped.close()
        self._check()

    def _source(self, index: int, files: list[SourceFile], malformed: Malformed, bar: Bar) -> None:
        source = self.data.sources[index]
        out = {s: ParquetRows(self.folder / "documents" / f"{s}-{index:03d}.parquet", DOCUMENTS) for s in SPLITS}
        for file in files:
            documents = read_documents(file, source, malformed, bar.advance)
            while True:
                with self.read.timed():
                    document = next(documents, None)
                if document is None:
                    break
                self._document(document, out)
            malformed.check(self.data.max_malformed_fraction)
            bar.advance(0, file.name)
        for rows in out.values():
            rows.close()

    def _document(self, document: Document, out: dict[str, ParquetRows]) -> None:
        name = f"{document.source}/{document.file}#{document.record}"
        size = len(document.text.encode("utf-8", "surrogatepass"))
        self.read.passed(size, size)
        with self.clean.timed():
            text = clean(document.text)
            encoded = text.encode()
        if len(text) < max(1, self.data.min_document_chars):
            reason = "too_short" if text else "empty"
            self.clean.drop(reason, size)
            self.dropped.add((name, reason, None), 0)
            return
        self.clean.passed(size, len(encoded))
        with self.dedup.timed():
            digest = xxhash.xxh3_128_digest(encoded)
            twin = self.seen.setdefault(digest, name) if self.data.deduplicate else name
        if twin != name:
            self.dedup.drop("exact_duplicate", len(encoded))
            self.dropped.add((name, "exact_duplicate", twin), 0)
            return
        self.dedup.passed(len(encoded), len(encoded))
        with self.split.timed():
            split = split_of(digest, self.seed, self.data.validation_fraction)
            out[split].add((name, document.file, document.record, text), len(encoded))
        self.split.passed(len(encoded), len(encoded))
        self.counts[split]["documents"] += 1
        self.counts[split]["bytes"] += len(encoded)

    def _check(self) -> None:
        if not self.split.documents_out:
            raise UserError(
                "no document is left to train on",
                where="data.sources",
                advice="The sources are empty, or every document was dropped: "
                + str({r: n for s in self.stages for r, n in s.dropped.items()}),
            )
        for split in SPLITS:
            if not self.counts[split]["documents"]:
                raise UserError(
                    f"the {split} part is empty: {self.split.documents_out} document(s) were split by hash",
                    where="data.validation_fraction",
                    expected="at least one document on either side",
                    advice="Change data.validation_fraction or seed, or cut long files into documents "
                    'with split_on = "\\n\\n"',
                )


def iterate_texts(folder: Path, split: str, source: int | None = None) -> Iterator[tuple[str, str]]:
    """(id, text) of the documents of a split, in order; of one source or of all."""
    pattern = f"{split}-*.parquet" if source is None else f"{split}-{source:03d}.parquet"
    for path in sorted((folder / "documents").glob(pattern)):
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "text"], batch_size=512):
            yield from zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True)
