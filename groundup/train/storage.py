"""Where checkpoints lie: a local folder, or any place that fsspec knows, such as an object store.

Paths are relative to the place, with slashes. What is committed is there whole or not at all, and what was written
survives the loss of power.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import xxhash

from groundup import faults
from groundup.errors import UserError

PORTION = 1 << 24  # bytes that are written or read at a time


class Storage(Protocol):
    @property
    def place(self) -> str:
        """Its folder or URL, for messages."""

    def create(self, path: str) -> Any:
        """A context manager around a new file to write to; on its end the file is durable."""

    def commit(self, path: str, data: bytes) -> None:
        """A small file, which is the old one or the whole new one, whatever happens."""

    def open(self, path: str) -> IO[bytes]:
        """To read and seek in. Raises FileNotFoundError."""

    def names(self, path: str = "") -> list[str]:
        """What lies in a folder, sorted; nothing where it is missing."""

    def remove(self, path: str) -> None:
        """A file, or a folder with all that is in it; nothing where it is missing."""

    def rename(self, path: str, name: str) -> None:
        """Give a folder another name."""


class LocalStorage:
    """A folder on a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        return str(self.root)

    @contextmanager
    def create(self, path: str) -> Iterator[IO[bytes]]:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        faults.point("shard.begin")
        with file.open("wb") as stream:
            yield stream
            faults.point("shard.written")
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(file.parent)
        faults.point("shard.synced")

    def commit(self, path: str, data: bytes) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        faults.point("commit.begin")
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                faults.point("commit.written")
                stream.flush()
                os.fsync(stream.fileno())
            faults.point("commit.synced")
            temporary.replace(file)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        faults.point("commit.renamed")
        _sync_folder(file.parent)
        _sync_folder(file.parent.parent)

    def open(self, path: str) -> IO[bytes]:
        return (self.root / path).open("rb")

    def names(self, path: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self.root / path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, path: str) -> None:
        found = self.root / path
        if found.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)

    def rename(self, path: str, name: str) -> None:
        (self.root / path).rename(self.root / name)


def _sync_folder(folder: Path) -> None:
    """Make entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RemoteStorage:
    """A place behind a URL. An object appears once all of it has been sent."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self.files, self.root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(
                str(error), where="checkpoint.place", advice="pip install what is missing, for s3:// groundup[s3]"
            ) from None

    @property
    def place(self) -> str:
        return self.url

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}".rstrip("/")

    @contextmanager
    def create(self, path: str) -> Iterator[IO[bytes]]:
        self.files.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)
        faults.point("shard.begin")
        with self.files.open(self._at(path), "wb", block_size=PORTION) as stream:
            yield stream
            faults.point("shard.written")
        faults.point("shard.synced")

    def commit(self, path: str, data: bytes) -> None:
        faults.point("commit.begin")
        self.files.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)
        self.files.pipe_file(self._at(path), data)
        faults.point("commit.renamed")

    def open(self, path: str) -> IO[bytes]:
        stream: IO[bytes] = self.files.open(self._at(path), "rb", block_size=PORTION)
        return stream

    def names(self, path: str = "") -> list[str]:
        self.files.invalidate_cache()
        try:
            return sorted(found.rstrip("/").rpartition("/")[2] for found in self.files.ls(self._at(path), detail=False))
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.files.rm(self._at(path), recursive=True)

    def rename(self, path: str, name: str) -> None:
        self.files.mv(self._at(path), self._at(name), recursive=True)


def open_storage(place: str | Path) -> Storage:
    """Of a folder, or of a URL `PROTOCOL://...`. Raises UserError where nothing here speaks the protocol."""
    if isinstance(place, str) and "://" in place and not place.startswith("file://"):
        return RemoteStorage(place)
    return LocalStorage(Path(str(place).removeprefix("file://")))


class Hashing:
    """Passes what is written on to a stream, and keeps its length and its hash (128 bits, xxh3). `progress` is called
    after each portion."""

    def __init__(self, stream: IO[bytes], progress: Callable[[], None]) -> None:
        self.stream, self.progress, self.length, self.hash = stream, progress, 0, xxhash.xxh3_128()

    def write(self, data: memoryview) -> None:
        for start in range(0, len(data), PORTION):
            portion = data[start : start + PORTION]
            self.stream.write(portion)
            self.hash.update(portion)
            self.length += len(portion)
            self.progress()


def checksum(storage: Storage, path: str) -> str:
    """128 bits over a file's content. Raises FileNotFoundError."""
    found = xxhash.xxh3_128()
    with storage.open(path) as stream:
        while portion := stream.read(PORTION):
            found.update(portion)
    return found.hexdigest()


def read(storage: Storage, path: str) -> bytes:
    """A whole small file. Raises FileNotFoundError."""
    with storage.open(path) as stream:
        return stream.read()
