"""Token shards: flat files of token ids with an index of documents and a checksum each, and their manifest.

`tokens/SPLIT-SOURCE-NUMBER.bin` holds little-endian unsigned integers, 16 bits wide where the vocabulary allows, 32
otherwise. The `.parquet` beside it lists its documents: id, first token, tokens, bytes of text.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from groundup.data.documents import ParquetRows
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.errors import UserError

SHARD_TOKENS = 1 << 28
VERIFY_UP_TO_BYTES = 1 << 30  # larger sets are checked by size only when they are opened
_INDEX = pa.schema([("id", pa.string()), ("start", pa.int64()), ("tokens", pa.int64()), ("bytes", pa.int64())])
_BATCH_BYTES = 4 << 20


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest type that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def checksum(path: Path) -> str:
    """xxh3-128 of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def check_room(folder: Path, need: int) -> None:
    """Raise UserError if the disk has no room for `need` bytes."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"the disk has {free / 1e6:,.0f} MB free, the token shards may take {need / 1e6:,.0f} MB",
            where=str(folder),
            advice="Make room or give another --run-dir",
        )


class ShardWriter:
    """Writes the documents of one split of one source."""

    def __init__(self, folder: Path, split: str, source: int, tokenizer: Tokenizer) -> None:
        self.folder, self.split, self.source, self.tokenizer = folder, split, source, tokenizer
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.files: list[dict[str, Any]] = []
        self._open()

    def _open(self) -> None:
        self.name = f"{self.split}-{self.source:03d}-{len(self.files):05d}"
        self.file = (self.folder / f"{self.name}.bin").open("wb")
        self.index = ParquetRows(self.folder / f"{self.name}.parquet", _INDEX)
        self.tokens = self.documents = self.bytes = 0

    def add(self, names: list[str], texts: list[str]) -> None:
        """Tokenize and append a batch of documents."""
        start, end = self.tokenizer.start_id, self.tokenizer.end_id
        for name, text, ids in zip(names, texts, self.tokenizer.encode_batch(texts), strict=True):
            row = [start, *ids] if end is None else [start, *ids, end]
            size = len(text.encode())
            self.file.write(np.array(row, self.dtype).tobytes())
            self.index.add((name, self.tokens, len(row), size), len(name) + 24)
            self.tokens += len(row)
            self.documents += 1
            self.bytes += size
            if self.tokens >= SHARD_TOKENS:
                self._close()
                self._open()

    def _close(self) -> None:
        self.file.close()
        self.index.close()
        path = self.folder / f"{self.name}.bin"
        if not self.documents:
            path.unlink()
            return
        self.files.append(
            {
                "name": self.name,
                "split": self.split,
                "source": self.source,
                "documents": self.documents,
                "tokens": self.tokens,
                "bytes": self.bytes,
                "xxh3_128": checksum(path),
            }
        )

    def finish(self) -> list[dict[str, Any]]:
        """Close; the manifest entries of the files written. A last start token ends the last document."""
        if self.documents:
            self.file.write(np.array([self.tokenizer.start_id], self.dtype).tobytes())
            self.tokens += 1
        self._close()
        return self.files


def batches(documents: Iterable[tuple[str, str]]) -> Iterable[tuple[list[str], list[str], int]]:
    """Group (id, text) pairs to a few megabytes: ids, texts, bytes."""
    names: list[str] = []
    texts: list[str] = []
    size = 0
    for name, text in documents:
        names.append(name)
        texts.append(text)
        size += len(text.encode())
        if size >= _BATCH_BYTES:
            yield names, texts, size
            names, texts, size = [], [], 0
    if names:
        yield names, texts, size


@dataclass(frozen=True)
class TokenSource:
    """All shards of one split of one source, as one run of tokens in memory maps."""

    name: str
    weight: float | None
    maps: Sequence[np.ndarray[Any, Any]]

    @property
    def tokens(self) -> int:
        return sum(len(m) for m in self.maps)

    def read(self, start: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens [start, start + count) as int64; shorter at the very end."""
        parts = []
        for tokens in self.maps:
            if count > 0 and start < len(tokens):
                part = tokens[start : start + count]
                parts.append(part)
                count -= len(part)
                start = 0
            elif count > 0:
                start -= len(tokens)
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


class DocumentIndex:
    """Which documents a source's tokens are of, from the index files beside its shards."""

    def __init__(self, source: TokenSource) -> None:
        ids, starts, ends, before = [], [], [], 0
        for tokens in source.maps:
            path = Path(str(tokens.filename)).with_suffix(".parquet") if isinstance(tokens, np.memmap) else None
            if path is not None and path.exists():
                table = pq.read_table(path, columns=["id", "start", "tokens"])
                start = table["start"].to_numpy() + before
                ids += table["id"].to_pylist()
                starts.append(start)
                ends.append(start + table["tokens"].to_numpy())
            before += len(tokens)
        empty = np.empty(0, np.int64)
        self.ids, self.starts, self.ends = ids, np.concatenate([empty, *starts]), np.concatenate([empty, *ends])

    def between(self, first: int, end: int) -> list[str]:
        """Ids of the documents that tokens [first, end) are of; none where no index is there."""
        start, stop = np.searchsorted(self.ends, first, "right"), np.searchsorted(self.starts, end, "left")
        return self.ids[start:stop]


def open_sources(folder: Path, manifest: dict[str, Any], split: str) -> list[TokenSource]:
    """The sources of a split, checked against the manifest. Raises UserError where a file is missing or damaged."""
    dtype = np.dtype(manifest["dtype"])
    small = sum(f["tokens"] for f in manifest["files"]) * dtype.itemsize <= VERIFY_UP_TO_BYTES
    sources = []
    for index, source in enumerate(manifest["sources"]):
        maps = []
        for file in manifest["files"]:
            if file["split"] != split or file["source"] != index:
                continue
            path = folder / "tokens" / f"{file['name']}.bin"
            if not path.exists() or path.stat().st_size != file["tokens"] * dtype.itemsize:
                raise UserError("this token shard is missing or cut short", where=str(path), advice="Run prepare again")
            if small and checksum(path) != file["xxh3_128"]:
                raise UserError(
                    "this token shard is not the one in the manifest", where=str(path), advice="Run prepare again"
                )
            maps.append(np.memmap(path, dtype, "r"))
        if maps:
            sources.append(TokenSource(source["name"], source["weight"], maps))
    return sources
