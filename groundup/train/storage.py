"""Where checkpoints lie: a local folder, or any place that fsspec knows, such as an object store.

Paths are relative to the place, with slashes. What is committed is there whole or not at all, and what was written
survives the loss of power.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import xxhash

from groundup import faults
from groundup.errors import UserError
from groundup.train.direct_file import DirectFile

PORTION = 1 << 24  # bytes that are written or read at a time


class Sink(Protocol):
    """A file to write to."""

    def write(self, data: memoryview, /) -> object: ...


class Stream(Protocol):
    """A file to read from."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def read(self, length: int = -1, /) -> bytes: ...
    def seek(self, place: int, /) -> object: ...


class NotCommitted(OSError):
    """A commit that surely did not come about. After any other error of a commit it may have."""


class Storage(Protocol):
    """Whatever goes wrong is an OSError."""

    @property
    def place(self) -> str:
        """Its folder or URL, for messages."""

    def create(self, path: str) -> Any:
        """A context manager around a new file to write to; on its end the file is durable, unless by an exception."""

    def commit(self, path: str, data: bytes, beside: str) -> None:
        """A small file, which is the old one or the whole new one, whatever happens. `beside`: a folder that must still
        be there. Raises NotCommitted."""

    def open(self, path: str) -> Stream:
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
    def create(self, path: str) -> Iterator[DirectFile]:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        faults.point("shard.begin")
        with DirectFile(file) as stream:
            yield stream
            faults.point("shard.written")
            stream.sync()
        _sync_folder(file.parent)
        faults.point("shard.synced")

    def commit(self, path: str, data: bytes, beside: str) -> None:
        file = self.root / path
        # Made in that folder, and no folder is made for it: whoever removed that folder meanwhile has the last word.
        temporary = self.root / beside / f".{file.name}"
        faults.point("commit.begin")
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                faults.point("commit.written")
                stream.flush()
                os.fsync(stream.fileno())
            faults.point("commit.synced")
            temporary.replace(file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise NotCommitted(error.errno, error.strerror, str(file)) from error
        faults.point("commit.renamed")
        _sync_folder(file.parent)
        _sync_folder(file.parent.parent)

    def open(self, path: str) -> Stream:
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


@contextmanager
def _as_os_error(url: str) -> Iterator[None]:
    """Each library behind fsspec has exceptions of its own for a server that does not answer."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", url) from error


class RemoteFile:
    """A file there, open for reading or for writing. Left by an exception, nothing of what was written appears."""

    def __init__(self, stream: Any, url: str) -> None:
        self.stream, self.url = stream, url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _as_os_error(self.url):
            if error is not None and self.stream.writable():
                with suppress(AttributeError):  # of files in memory, which send nothing
                    self.stream.closed = True  # or closing would send what is there, as if it were all
                with suppress(Exception):  # it may be the server that is gone; then nothing can be taken back
                    self.stream.discard()
            self.stream.close()

    def write(self, data: memoryview) -> None:
        with _as_os_error(self.url):
            self.stream.write(data)

    def read(self, length: int = -1) -> bytes:
        with _as_os_error(self.url):
            found: bytes = self.stream.read(length)
            return found

    def seek(self, place: int) -> None:
        with _as_os_error(self.url):
            self.stream.seek(place)


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

    def _open(self, path: str, mode: str) -> RemoteFile:
        with _as_os_error(self.url):
            return RemoteFile(self.files.open(self._at(path), mode, block_size=PORTION), self.url)

    def _make_folder(self, path: str) -> None:
        with _as_os_error(self.url):
            self.files.makedirs(self._at(path).rpartition("/")[0], exist_ok=True)

    @contextmanager
    def create(self, path: str) -> Iterator[RemoteFile]:
        self._make_folder(path)
        faults.point("shard.begin")
        with self._open(path, "wb") as stream:
            yield stream
            faults.point("shard.written")
        faults.point("shard.synced")

    def commit(self, path: str, data: bytes, beside: str) -> None:
        faults.point("commit.begin")
        try:
            self._make_folder(path)
            there = self.names(beside)
        except OSError as error:
            raise NotCommitted(error.errno, error.strerror, self.url) from error
        if not there:
            raise NotCommitted(errno.ENOENT, "another process has removed its files", f"{self.url}/{beside}")
        with _as_os_error(self.url):
            self.files.pipe_file(self._at(path), data)
        faults.point("commit.renamed")

    def open(self, path: str) -> RemoteFile:
        return self._open(path, "rb")

    def names(self, path: str = "") -> list[str]:
        with _as_os_error(self.url):
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self._at(path), detail=False)
            except FileNotFoundError:
                return []
            return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def remove(self, path: str) -> None:
        with _as_os_error(self.url), suppress(FileNotFoundError):
            self.files.rm(self._at(path), recursive=True)

    def rename(self, path: str, name: str) -> None:
        with _as_os_error(self.url):
            self.files.mv(self._at(path), self._at(name), recursive=True)


def open_storage(place: str | Path) -> Storage:
    """Of a folder, or of a URL `PROTOCOL://...`. Raises UserError where nothing here speaks the protocol."""
    if isinstance(place, str) and "://" in place and not place.startswith("file://"):
        return RemoteStorage(place)
    return LocalStorage(Path(str(place).removeprefix("file://")))


class Hashing:
    """Passes what is written on to a stream, and keeps its length and its hash (128 bits, xxh3). `progress` is called
    after each portion."""

    def __init__(self, stream: Sink, progress: Callable[[], None]) -> None:
        self.stream, self.progress, self.length, self.hash = stream, progress, 0, xxhash.xxh3_128()

    def write(self, data: memoryview) -> None:
        for start in range(0, len(data), PORTION):
            portion = data[start : start + PORTION]
            self.stream.write(portion)
            self.hash.update(portion)
            self.length += len(portion)
            self.progress()


def checksum(storage: Storage, path: str, progress: Callable[[], None]) -> str:
    """128 bits over a file's content; `progress` is called after each portion. Raises FileNotFoundError."""
    found = xxhash.xxh3_128()
    with storage.open(path) as stream:
        while portion := stream.read(PORTION):
            found.update(portion)
            progress()
    return found.hexdigest()


def read(storage: Storage, path: str) -> bytes:
    """A whole small file. Raises FileNotFoundError."""
    with storage.open(path) as stream:
        return stream.read()
