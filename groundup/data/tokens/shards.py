"""Token files as they are read: flat runs of token ids in memory maps, one run per source and split.

`tokens/SPLIT-SOURCE-SHARD.bin` holds little-endian unsigned integers, 16 bits wide where the vocabulary allows, 32
otherwise. The `.parquet` beside it lists its documents (index.py).
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from groundup.errors import UserError

VERIFY_UP_TO_BYTES = 1 << 30  # larger sets are checked by size only when they are opened
_MAPS_AT_ONCE = 8192  # Linux allows a process 65,530 mappings


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


class TokenFiles(Sequence[NDArray[Any]]):
    """Token files, each mapped when it is first read. `names`: without their ending; `sizes`: tokens of each."""

    def __init__(self, folder: Path, names: list[str], sizes: NDArray[np.int64], dtype: np.dtype[Any]) -> None:
        self.folder, self.names, self.sizes, self.dtype = folder, names, sizes, dtype
        self.open: dict[int, NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        tokens = self.open.get(index)
        if tokens is None:
            if len(self.open) >= _MAPS_AT_ONCE:
                self.open.clear()  # what is in use keeps its map
            # As a plain array: slices of a memmap cost ten times as much.
            path = self.folder / f"{self.names[index]}.bin"
            tokens = np.asarray(np.memmap(path, self.dtype, "r", shape=(int(self.sizes[index]),)))
            self.open[index] = tokens
        return tokens

    def index_path(self, index: int) -> Path:
        """Where the documents of a token file are listed."""
        return self.folder / f"{self.names[index]}.parquet"


class TokenSource:
    """All shards of one split of one source, as one run of tokens.

    `weight`: share of the batches relative to the other sources'. `epochs`: how often the source is passed in one
    epoch of the mixture. At most one of them is given.
    """

    def __init__(
        self, name: str, weight: float | None, maps: Sequence[NDArray[Any]], epochs: float | None = None
    ) -> None:
        self.name, self.weight, self.epochs, self.maps = name, weight, epochs, maps
        sizes = maps.sizes if isinstance(maps, TokenFiles) else np.array([len(m) for m in maps], np.int64)
        self.ends: NDArray[np.int64] = np.cumsum(sizes)
        self.starts: NDArray[np.int64] = self.ends - sizes
        self._ends: list[int] = self.ends.tolist()
        self.dtype: np.dtype[Any] = maps.dtype if isinstance(maps, TokenFiles) else maps[0].dtype

    @property
    def tokens(self) -> int:
        return int(self.ends[-1])

    def read_into(self, out: NDArray[Any], start: int) -> int:
        """Fill `out` with the tokens from `start` on; how many there were, fewer only at the very end."""
        filled, wanted = 0, len(out)
        shard = bisect_right(self._ends, start)
        if shard < len(self._ends) and start + wanted <= self._ends[shard]:
            begin = start - (self._ends[shard - 1] if shard else 0)
            out[:] = self.maps[shard][begin : begin + wanted]
            return wanted
        while filled < wanted and shard < len(self._ends):
            first = start + filled - (self._ends[shard - 1] if shard else 0)
            part = self.maps[shard][first : first + wanted - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
        return filled

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Tokens [start, start + count) as int64; shorter at the very end."""
        tokens = np.empty(max(0, count), np.int64)
        return tokens[: self.read_into(tokens, start)]


def refuse_damaged(folder: Path, manifest: dict[str, Any], split: str) -> None:
    """Raise UserError where a token file of the split is missing or not the manifest's."""
    dtype = np.dtype(manifest["dtype"])
    small = sum(f["tokens"] for f in manifest["files"]) * dtype.itemsize <= VERIFY_UP_TO_BYTES
    tokens = folder / "tokens"
    entries = os.scandir(tokens) if tokens.is_dir() else ()
    there = {e.name: e.stat().st_size for e in entries if e.name.startswith(split) and e.name.endswith(".bin")}
    for file in manifest["files"]:
        if file["split"] != split:
            continue
        name = f"{file['name']}.bin"
        if there.get(name) != file["tokens"] * dtype.itemsize:
            raise UserError(
                "this token shard is missing or cut short", where=str(tokens / name), advice="Run prepare again"
            )
        if small and checksum(tokens / name) != file["xxh3_128"]:
            raise UserError(
                "this token shard is not the one in the manifest", where=str(tokens / name), advice="Run prepare again"
            )


def open_sources(folder: Path, manifest: dict[str, Any], split: str) -> list[TokenSource]:
    """The sources of a split, checked against the manifest. Raises UserError where a file is missing or damaged."""
    refuse_damaged(folder, manifest, split)
    return sources_of(folder, manifest, split)


def sources_of(folder: Path, manifest: dict[str, Any], split: str) -> list[TokenSource]:
    """The sources of a split as the manifest has them; their files are opened when they are read."""
    by_source: dict[int, list[dict[str, Any]]] = {}
    for file in manifest["files"]:
        if file["split"] == split:
            by_source.setdefault(file["source"], []).append(file)
    sources = []
    for index, files in sorted(by_source.items()):
        source = manifest["sources"][index]
        sizes = np.array([file["tokens"] for file in files], np.int64)
        names = [file["name"] for file in files]
        maps = TokenFiles(folder / "tokens", names, sizes, np.dtype(manifest["dtype"]))
        epochs = source.get("epochs") if split == "train" else None  # validation is never repeated
        sources.append(TokenSource(source["name"], source["weight"], maps, epochs))
    return sources
