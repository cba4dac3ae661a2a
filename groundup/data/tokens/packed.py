"""Packed windows as files: made once (pack.py, whose compiled kernels training has no other use for), then mapped."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.tokens.shards import TokenSource

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PackedWindows:
    """Window w holds pieces [offsets[w], offsets[w + 1]). A piece is (first token in the source, how many inputs);
    the label of its last input is the token after it."""

    offsets: Integers  # [windows + 1]
    pieces: Integers  # [pieces, 2]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def packed_windows(folder: Path, key: str, source: TokenSource, window: int, joined: bool) -> PackedWindows:
    """The packed windows of a source, as memory maps of files in `folder`; made where they aren't there yet.

    `key` names the source's tokens for good. Processes may make the same files at the same time.
    """
    paths = [folder / f"{key}-{window}.{ending}" for ending in ("pieces", "windows")]
    if not paths[1].exists():
        from groundup.data.tokens.index import document_lengths
        from groundup.data.tokens.pack import pack

        _write(paths, pack(document_lengths(source), window, joined))
    pieces, offsets = (np.memmap(path, np.int64, "r") if path.stat().st_size else _EMPTY for path in paths)
    return PackedWindows(np.asarray(offsets), np.asarray(pieces).reshape(-1, 2))


_EMPTY: NDArray[Any] = np.empty(0, np.int64)


def _write(paths: list[Path], blocks: Iterable[tuple[Integers, Integers]]) -> None:
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    partial = [path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}") for path in paths]
    try:
        with partial[0].open("wb") as pieces, partial[1].open("wb") as offsets:
            end = np.zeros(1, np.int64)
            offsets.write(end.data)
            for rows, counts in blocks:
                pieces.write(np.ascontiguousarray(rows).data)
                ends = end + np.cumsum(counts)
                offsets.write(ends.data)
                end = ends[-1:]
            for file in (pieces, offsets):
                file.flush()
                os.fsync(file.fileno())
        # The offsets last: where they are, the pieces are.
        for temporary, path in zip(partial, paths, strict=True):
            temporary.replace(path)
    finally:
        for temporary in partial:
            temporary.unlink(missing_ok=True)
