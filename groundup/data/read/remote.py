"""Sources behind URLs, through fsspec: s3://, gs://, https://, memory:// and what else its packages know.

Objects are read as streams, with the readers for local files, and nothing is stored on the way: a part of a .jsonl
object is fetched by its range of bytes, a Parquet object by its row groups. Credentials and endpoints come from the
environment, as each store's package reads them.
"""

from __future__ import annotations

import io
import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from groundup.errors import UserError

_URL = re.compile(r"(?!hf://|file://)[a-z][a-z0-9+.-]*://")
_READ_AHEAD = 4 << 20
# What stores call the version of an object, the surest first.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def path_of(url: str) -> str:
    """The path in the URL, without scheme, host of a web address, query and fragment."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return parts.path
    return url.partition("://")[2]


def find(url: str, pattern: str) -> list[tuple[str, str]]:
    """(URL, name) of the objects that `url` means, sorted by name: the one that it names, those that it matches as a
    glob, or those below it that match `pattern`. Hidden ones are passed over. UserError where that can't be told."""
    web = urlsplit(url).scheme in ("http", "https")
    try:
        files, root = _files(url)
        if web or files.isfile(root):
            files.info(root)
            return [(url, PurePosixPath(path_of(url)).name)]
        magic = re.search(r"[*?\[]", root)
        if magic is None:
            top, search = root.rstrip("/"), f"{root.rstrip('/')}/{pattern}"
        else:
            top, search = root[: magic.start()].rpartition("/")[0], root
        found = [str(name) for name, entry in files.glob(search, detail=True).items() if entry["type"] == "file"]
        names = {path: path[len(top) :].lstrip("/") for path in found}
        shown = {p: n for p, n in names.items() if not any(part.startswith(".") for part in PurePosixPath(n).parts)}
        return [(str(files.unstrip_protocol(path)), name) for path, name in sorted(shown.items(), key=lambda x: x[1])]
    except UserError:
        raise
    # Stores raise errors of many families, of their HTTP clients too; each means no files.
    except Exception as error:
        raise UserError(f"can't be read: {_reason(error)}", where=url, advice=_ADVICE) from error


_ADVICE = "Check the address, the network, and the credentials and endpoint in the environment"


def state(url: str) -> tuple[int, str]:
    """Size in bytes, and a version that changes with the content ("" if the store tells none). Raises OSError."""
    try:
        files, root = _files(url)
        entry = files.info(root)
    except Exception as error:
        raise _as_os_error(error) from error
    return int(entry.get("size") or 0), next((str(entry[key]) for key in _VERSIONS if entry.get(key)), "")


class RemoteFile(io.RawIOBase):
    """The object behind `url`, for reading; raises OSError for whatever goes wrong."""

    def __init__(self, url: str) -> None:
        try:
            files, root = _files(url)
            self._file: Any = files.open(root, "rb", block_size=_READ_AHEAD)
        except Exception as error:
            raise _as_os_error(error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except Exception as error:
            raise _as_os_error(error) from error
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _files(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        advice = "pip install what is missing, for s3:// groundup[s3]"
        raise UserError(str(error), where=url, advice=advice) from None
    return files, root


def _as_os_error(error: Exception) -> OSError | UserError:
    return error if isinstance(error, OSError | UserError) else OSError(_reason(error))


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
