"""Files and objects behind URLs opened for reading as a stream of bytes, decompressed where their suffix says so."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import zstandard

from groundup.data.read import remote

_BUFFER = 1 << 20
# Small, since zstd may make thousands of bytes from one.
_INPUT = 1 << 14
_ZSTD_WINDOW = 1 << 31

DAMAGE = (EOFError, zlib.error, zstandard.ZstdError)


def open_stream(place: Path | str, on_bytes: Callable[[int], None] | None = None, start: int = 0) -> io.BufferedReader:
    """The content of the file or URL `place`, decompressed if its name ends in .gz or .zst (all members or frames).

    `on_bytes` is told of each read from the disk or the net, in bytes. `start`: the byte of the file to begin with, 0
    for a compressed one. Reading raises one of `DAMAGE` where the
    compressed data is damaged or cut short, OSError where the disk or the URL can't be read.
    """
    stored: io.RawIOBase = io.FileIO(place) if isinstance(place, Path) else remote.RemoteFile(place)
    if start:
        stored.seek(start)
    if on_bytes is not None:
        stored = _Counted(stored, on_bytes)
    suffix = place.suffix.lower() if isinstance(place, Path) else PurePath(remote.path_of(place)).suffix.lower()
    if suffix == ".gz":
        stored = _Decompressed(io.BufferedReader(stored, _BUFFER), lambda: zlib.decompressobj(wbits=31))
    elif suffix == ".zst":
        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        stored = _Decompressed(io.BufferedReader(stored, _BUFFER), decompressor.decompressobj)
    return io.BufferedReader(stored, _BUFFER)


def line_of_damage(place: Path | str) -> int:
    """The line, from 1, at which compressed data can't be read on."""
    line = 1
    with open_stream(place) as stream:
        try:
            while chunk := stream.read1(_BUFFER):
                line += chunk.count(b"\n")
        except DAMAGE:
            pass
    return line


class _Counted(io.RawIOBase):
    """Tells how many bytes are read."""

    def __init__(self, stored: io.RawIOBase, on_bytes: Callable[[int], None]) -> None:
        self._stored, self._on_bytes = stored, on_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._stored.readinto(buffer)
        if count:
            self._on_bytes(count)
        return count

    def close(self) -> None:
        self._stored.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """The frames of `stored`, each read by a new decoder with zlib's interface."""

    def __init__(self, stored: io.BufferedReader, new_decoder: Callable[[], Any]) -> None:
        self._stored, self._new_decoder = stored, new_decoder
        self._decoder: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._stored.read(_INPUT)
            if not self._input:
                if self._decoder is not None:
                    raise EOFError("the compressed data is cut short")
                return 0
            self._decoder = self._decoder or self._new_decoder()
            self._output = memoryview(self._decoder.decompress(self._input))
            self._input = b""
            if self._decoder.eof:
                self._input, self._decoder = self._decoder.unused_data, None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def close(self) -> None:
        self._stored.close()
        super().close()
