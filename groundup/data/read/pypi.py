"""Source archives from the package index, checked by hash and read without installing them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from groundup.errors import UserError

_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def fetch(requirement: str, sha256: str, cache: Path) -> Path:
    """The folder with the contents of the source archive of `requirement` (NAME==VERSION).

    The folder is `cache`/SHA256, or the one folder in it: a source archive has just one at its top. Once it
    is there, nothing is fetched. An archive that lies in `cache` under its own name is used, else pip fetches
    it. pip is given the hash, so it refuses a wrong archive before it asks its build script for metadata.
    Only regular files are unpacked.

    Raises UserError on a malformed requirement, a wrong hash, and when the archive can't be had.
    """
    match = _REQUIREMENT.fullmatch(requirement)
    if match is None:
        where = f"pypi:{requirement}"
        raise UserError("is no exact version of a package", where=where, expected="pypi:NAME==VERSION")
    folder = cache / sha256
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as temporary:
                archive = _cached_archive(f"{match[1]}-{match[2]}", sha256, cache)
                if archive is None:
                    archive = _download(requirement, sha256, cache, Path(temporary))
                _unpack(archive, Path(temporary) / "files", folder)
        except OSError as error:
            raise UserError(f"the cache can't be written: {error}", where=str(cache)) from error
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def check_sha256(path: Path, expected: str) -> None:
    """UserError that shows both hashes, unless the file's SHA-256 is `expected`."""
    found = _sha256(path)
    if found != expected:
        raise _wrong_hash(str(path), expected, found)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_hash(where: str, expected: str, found: str) -> UserError:
    return UserError(
        f"its SHA-256 is {found}",
        where=where,
        expected=expected,
        advice="It isn't the file that the recipe means, or it is damaged. Fetch it again, or correct sha256 "
        "in the recipe if you trust this file",
    )


def _cached_archive(stem: str, sha256: str, cache: Path) -> Path | None:
    """The archive called `stem` in `cache`; UserError if there are such archives and none has the hash."""
    named = [
        path
        for path in sorted(cache.iterdir())
        for suffix in _SUFFIXES
        if path.name.endswith(suffix) and _plain(path.name.removesuffix(suffix)) == _plain(stem)
    ]
    for path in named:
        if _sha256(path) == sha256:
            return path
    if named:
        raise _wrong_hash(str(named[0]), sha256, _sha256(named[0]))
    return None


def _plain(name: str) -> str:
    """Names that differ in case, dots, dashes and underscores only are the same to the package index."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _download(requirement: str, sha256: str, cache: Path, temporary: Path) -> Path:
    requirements, folder = temporary / "requirements.txt", temporary / "download"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="ascii")
    # pip always asks an archive's build script for metadata. Without build isolation it uses the setuptools
    # that torch depends on, instead of fetching build tools that no hash holds down.
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(folder)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace")
    if result.returncode != 0:
        raise _pip_error(requirement, sha256, cache, result.stdout + result.stderr)
    (downloaded,) = folder.iterdir()
    check_sha256(downloaded, sha256)
    archive = cache / downloaded.name
    os.replace(downloaded, archive)
    return archive


def _pip_error(requirement: str, sha256: str, cache: Path, output: str) -> UserError:
    got = re.search(r"\bGot\s+([0-9a-f]{64})\b", output)
    if got is not None:
        return _wrong_hash(f"pypi:{requirement}", sha256, got[1])
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # pip ends with this line when a build script fails; the reason stands above it.
    errors = [line for line in lines if "error:" in line.lower() and "metadata-generation-failed" not in line]
    last = (errors or lines or ["pip said nothing"])[-1]
    unreachable = "the package index can't be reached: " if "connection broken" in output else ""
    archive = requirement.replace("==", "-") + _SUFFIXES[0]
    return UserError(
        f"pip can't fetch the source archive: {unreachable}{last}",
        where=f"pypi:{requirement}",
        advice=f"Check the name, the version and the network, or put the archive {archive} into {cache}",
    )


def _unpack(archive: Path, temporary: Path, folder: Path) -> None:
    """The archive's regular files, first into `temporary`, then renamed into place at once as `folder`."""
    try:
        for name, content in _regular_files(archive):
            target = Path(os.path.abspath(temporary / name))
            if not target.is_relative_to(os.path.abspath(temporary)):
                raise UserError(f"a file in the archive would land elsewhere: {name}", where=str(archive))
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"the archive can't be unpacked: {error}", where=str(archive)) from error
    if not temporary.is_dir():
        raise UserError("there are no files in the archive", where=str(archive))
    try:
        temporary.rename(folder)
    except OSError:
        # Another process was faster; what it put there has the same hash.
        if not folder.is_dir():
            raise


def _regular_files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if not entry.is_dir():
                    with zipped.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            content_or_none = tar.extractfile(member) if member.isfile() else None
            if content_or_none is not None:
                with content_or_none:
                    yield member.name, content_or_none
