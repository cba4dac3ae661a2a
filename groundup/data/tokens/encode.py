"""From the documents of one shard to a file of token ids with an index, checked against the reference encoder."""

from __future__ import annotations

import heapq
import os
import secrets
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from groundup.data.batches.permutation import mix
from groundup.data.tokens.encoder import Encoder
from groundup.data.tokens.shards import token_dtype
from groundup.errors import UserError

INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("start", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
_PORTION_BYTES = 4 << 20  # text encoded at once
_CHECKED_DOCUMENTS = 16
_CHECKED_BYTES = 64 << 10


def _portions(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices of a few megabytes of text, at least one document each."""
    sizes = np.asarray(pc.binary_length(batch.column("text")), np.int64)
    portion = np.cumsum(sizes) // _PORTION_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(portion)) + 1).tolist(), len(batch)]
    for start, stop in pairwise(cuts):
        if stop > start:
            yield batch.slice(start, stop - start)


class ShardWriter:
    """Writes `SPLIT-SOURCE-SHARD.bin` and its `.parquet` index into `folder` (a context manager).

    Takes the documents of one split in one document shard, in order. Each becomes a start token, its ids, and an end
    token where the tokenizer has one apart. The index has a row per document: id, file, offset, its first token,
    tokens, bytes of text.

    Single threaded; both files are the old ones or, once `finish` has returned, the whole new ones.
    """

    def __init__(self, folder: Path, encoder: Encoder, split: str, source: int, shard: int) -> None:
        self.split, self.source, self.name = split, source, f"{split}-{source:03d}-{shard:05d}"
        self.encoder, self.tokenizer = encoder, encoder.tokenizer
        self.dtype = token_dtype(self.tokenizer.vocab_size)
        self.paths = [folder / f"{self.name}.bin", folder / f"{self.name}.parquet"]
        ending = f".{os.getpid()}.{secrets.token_hex(4)}"
        self.partial = [path.with_name(f".{path.name}{ending}") for path in self.paths]
        self.file = self.partial[0].open("wb")
        self.index: pq.ParquetWriter | None = None
        self.digest = xxhash.xxh3_128()
        self.tokens = self.documents = self.bytes = 0
        self.sample: list[tuple[int, int, str, str, NDArray[np.uint32] | None]] = []

    def add(self, documents: pa.RecordBatch) -> None:
        """Encode documents, with columns id, file, offset and text."""
        for portion in _portions(documents):
            self._add(portion)

    def _add(self, batch: pa.RecordBatch) -> None:
        texts = batch.column("text").to_pylist()
        sizes = np.asarray(pc.binary_length(batch.column("text")), np.int64)
        ids, offsets = self.encoder.encode(texts)
        self._remember(batch, texts, sizes, ids, offsets)
        extra = 1 if self.tokenizer.end_id is None else 2
        starts = offsets[:-1] + extra * np.arange(len(texts))
        lengths = np.diff(offsets) + extra
        row = np.empty(len(ids) + extra * len(texts), self.dtype)
        is_text = np.ones(len(row), bool)
        is_text[starts] = False
        if self.tokenizer.end_id is not None:
            is_text[starts + lengths - 1] = False
            row[starts + lengths - 1] = self.tokenizer.end_id
        row[starts] = self.tokenizer.start_id
        row[is_text] = ids
        self._write(row)
        if self.index is None:
            self.index = pq.ParquetWriter(self.partial[1], INDEX, compression="zstd", use_dictionary=["file"])
        columns = [batch.column("id").cast(pa.string()), batch.column("file").cast(pa.string()), batch.column("offset")]
        numbers = [pa.array(starts + self.tokens), pa.array(lengths), pa.array(sizes)]
        self.index.write_batch(pa.RecordBatch.from_arrays([*columns, *numbers], schema=INDEX))
        self.tokens += len(row)
        self.documents += len(texts)
        self.bytes += int(sizes.sum())

    def _write(self, row: NDArray[Any]) -> None:
        self.digest.update(row.data)
        self.file.write(row.data)

    def _remember(
        self,
        batch: pa.RecordBatch,
        texts: list[str],
        sizes: NDArray[np.int64],
        ids: NDArray[np.uint32],
        offsets: NDArray[np.int64],
    ) -> None:
        """Keep those of the shard's documents whose hashed number is smallest, the beginning of what is long."""
        with np.errstate(over="ignore"):
            draw = mix(np.arange(self.documents, self.documents + len(texts), dtype=np.uint64) + np.uint64(1))
        for row in np.argsort(draw)[:_CHECKED_DOCUMENTS].tolist():
            entry = -int(draw[row]), self.documents + row
            if len(self.sample) == _CHECKED_DOCUMENTS and entry <= self.sample[0][:2]:
                return
            whole = sizes[row] <= _CHECKED_BYTES
            text = texts[row] if whole else texts[row][: _CHECKED_BYTES // 4]
            found = ids[offsets[row] : offsets[row + 1]].copy() if whole else None
            keep = heapq.heappush if len(self.sample) < _CHECKED_DOCUMENTS else heapq.heappushpop
            keep(self.sample, (*entry, batch.column("id")[row].as_py(), text, found))

    def _check(self) -> int:
        """Compare the sample; how many documents were compared."""
        room, checked = _CHECKED_BYTES, 0
        for _, _, name, text, found in sorted(self.sample, reverse=True):
            size = len(text.encode())
            if checked and size > room:
                continue
            found = self.encoder.encode([text])[0] if found is None else found
            if found.tolist() != self.tokenizer.encode(text):
                raise UserError(
                    f"{self.encoder.name} encodes this document otherwise than {self.encoder.reference} does",
                    where=name,
                    advice='Set tokenizer.encoder = "tokenizers", which is slower, and report the difference',
                )
            room -= size
            checked += 1
        return checked

    def finish(self, closes: bool) -> dict[str, Any] | None:
        """Put the files into place; their entry in the manifest. None, and no files, where there is no document.
        `closes`: these are the last documents of the split in the source, so a last start token ends the last of them.

        Raises UserError where a sample of the documents has other ids by the reference encoder."""
        if self.index is None:
            return None
        if closes:
            self._write(np.array([self.tokenizer.start_id], self.dtype))
            self.tokens += 1
        checked = self._check()
        self.index.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        # The index first: a token file is never without one.
        for partial, path in zip(reversed(self.partial), reversed(self.paths), strict=True):
            partial.replace(path)
        return {
            "name": self.name,
            "split": self.split,
            "source": self.source,
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "xxh3_128": self.digest.hexdigest(),
            "encoder": self.encoder.name,
            "reference": self.encoder.reference,
            "checked": checked,
            "unicode": self.encoder.unicode,
            "fallback": self.encoder.fallback,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was not finished."""
        self.file.close()
        for partial in self.partial:
            partial.unlink(missing_ok=True)
