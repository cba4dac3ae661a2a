"""A new file written past the page cache: whose pages, made and filled for bytes that nobody reads soon, cost a save
several times the processor time of all else in it, which training beside it lacks."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

ROOM = 1 << 23  # bytes that are written at a time
BLOCK = 4096  # of which the system wants a multiple, from an address that is one
_DIRECT = getattr(os, "O_DIRECT", 0)  # not every system has it


class DirectFile:
    """Where the file system does not do it, a usual file. `sync` writes the rest and makes all of it durable."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.direct = bool(_DIRECT)
        try:
            self.descriptor = os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.direct = False
            self.descriptor = os.open(path, flags, 0o666)
        self.buffer, self.filled = mmap.mmap(-1, ROOM), 0

    def write(self, data: memoryview) -> None:
        for start in range(0, len(data), ROOM):
            piece = data[start : start + ROOM]
            fitting = min(len(piece), ROOM - self.filled)
            self._fill(piece[:fitting])
            if self.filled == ROOM:
                self._empty()
                self._fill(piece[fitting:])

    def _fill(self, piece: memoryview) -> None:
        self.buffer[self.filled : self.filled + len(piece)] = piece
        self.filled += len(piece)

    def _empty(self) -> None:
        left = memoryview(self.buffer)[: self.filled]
        while left:
            try:
                done = os.write(self.descriptor, left)
            except OSError as error:
                if error.errno != errno.EINVAL or not self.direct:
                    raise
                done = 0
            if done < len(left):
                self._go_usual()  # what is left may begin within a block
            left = left[done:]
        self.filled = 0

    def _go_usual(self) -> None:
        if self.direct:
            flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
            self.direct = False

    def sync(self) -> None:
        if self.filled % BLOCK:
            self._go_usual()
        self._empty()
        os.fsync(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
