"""A disk that gets full for real: a small file system in memory, where this process may mount one."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BALLAST = "ballast"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """`folder` on a file system of `size` bytes; False where none can be mounted or the size is 0: a usual folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if not size:
        yield False
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "groundup-torture", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def fill(folder: Path, room: int) -> None:
    """Leave only `room` bytes free, while others write there."""
    with (folder / BALLAST).open("wb") as file:
        for _ in range(10):
            free = os.statvfs(folder)
            length = free.f_bavail * free.f_frsize - room
            if length <= 0:
                return
            try:
                return os.posix_fallocate(file.fileno(), 0, length)
            except OSError as error:  # somebody has taken the room meanwhile
                if error.errno != errno.ENOSPC:
                    raise


def empty(folder: Path) -> None:
    (folder / BALLAST).unlink(missing_ok=True)
