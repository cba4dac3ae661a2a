"""A task: a pure function from files to the files of one folder, done once.

The folder STAGE/NAME/ comes into being as a whole, by a rename. Its `manifest.json` says what it was made from, by
which code, and what is in it, and is the same on every machine; `times.json` says what making it took.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import secrets
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from groundup import __version__
from groundup.console import say
from groundup.errors import UserError
from groundup.rundir import fingerprint

_MANIFEST, _TIMES = "manifest.json", "times.json"

Work = Callable[..., dict[str, Any]]


# What the files depend on: the code in these files, and libraries by their versions.
_CODE = (
    *("intrinsics.py", "jit.py", "kernels.py", "texts.py", "batches/permutation.py", "clean/*.py"),
    *("decontaminate/*.py", "dedup/*.py", "filters/*.py", "read/*.py", "stages/*.py", "tags/*.py", "tokens/*.py"),
)
_LIBRARIES = (
    *("fastokens", "fastwarc", "fsspec", "numba", "numpy", "orjson", "pyarrow", "pycld2", "resiliparse", "rustbpe"),
    *("tokenizers", "xxhash", "zstandard"),
)


@cache
def versions() -> dict[str, str]:
    """Of Groundup, a hash of the code that makes files, of Unicode and of the libraries."""
    digest = xxhash.xxh3_64()
    folder = Path(__file__).parent.parent
    for file in sorted(path for part in _CODE for path in folder.glob(part)):
        digest.update(file.read_bytes())
    found = {"groundup": __version__, "code": digest.hexdigest(), "unicode": unicodedata.unidata_version}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@dataclass(frozen=True)
class Task:
    """`work` (MODULE:FUNCTION) is called with an empty folder to write into, the root of all stages and `arguments`,
    and returns JSON. Under the key "seconds" it may say how long its parts took.

    inputs: fingerprints of whatever the files depend on that `arguments` doesn't show, such as other tasks' output.
    size: bytes that it takes in, for progress. shard: one more argument of `work`, a number on which the files don't
    depend.
    """

    stage: str
    name: str
    work: str
    arguments: dict[str, Any]
    inputs: tuple[str, ...] = ()
    size: int = 0
    shard: int | None = None

    @property
    def key(self) -> str:
        return fingerprint([versions(), self.work, self.arguments, self.inputs])

    def folder(self, root: Path) -> Path:
        return root / self.stage / self.name

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Task:
        return Task(**{**value, "inputs": tuple(value["inputs"])})


@dataclass(frozen=True)
class Done:
    """A finished task. output: fingerprint of result and files; parts: wall and CPU seconds of parts of the work; peak:
    bytes of memory that its process has had at most."""

    stage: str
    name: str
    folder: Path
    result: dict[str, Any]
    output: str
    seconds: float
    cpu_seconds: float
    parts: dict[str, list[float]]
    peak: int
    process: str
    skipped: bool = field(default=False, compare=False)


Run = Callable[[Sequence[Task]], Iterator[Done]]  # does tasks, and yields each as it is done


def finished(task: Task, root: Path) -> Done | None:
    """What an earlier run of the same task made, if it is there and whole."""
    folder = task.folder(root)
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        times = json.loads((folder / _TIMES).read_bytes())
        if manifest["key"] != task.key:
            return None
        if any((folder / name).stat().st_size != entry["bytes"] for name, entry in manifest["files"].items()):
            return None
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return _done(task, folder, manifest, times, skipped=True)


def drop_damaged(root: Path) -> None:
    """Remove what tasks made that is no longer as they left it. Reads every file, where `finished` looks at sizes."""
    for file in sorted(root.glob("*/*/" + _MANIFEST)):
        try:
            files = json.loads(file.read_bytes())["files"]
            sound = all(_entry(file.with_name(name)) == entry for name, entry in files.items())
        except (FileNotFoundError, ValueError, KeyError):
            sound = False
        if not sound:
            say(f"{file.parent}: damaged, and made again")
            shutil.rmtree(file.parent)


def perform(task: Task, root: Path) -> Done:
    """Do the task, unless it is done. Raises what the work raises, and then leaves nothing behind."""
    before = finished(task, root)
    if before is not None:
        return before
    folder = task.folder(root)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{task.name}.{os.getpid()}.{secrets.token_hex(4)}"
    partial.mkdir()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        module, _, function = task.work.partition(":")
        work: Work = getattr(importlib.import_module(module), function)
        numbered = {} if task.shard is None else {"shard": task.shard}
        result = work(partial, root, **task.arguments, **numbered)
        parts = result.pop("seconds", {})
        files = {p.name: _entry(p) for p in sorted(partial.iterdir())}
        made_from = {"work": task.work, "arguments": task.arguments, "inputs": task.inputs, "versions": versions()}
        manifest = {"key": task.key, **made_from, "result": result, "files": files}
        times = {
            "seconds": round(time.perf_counter() - wall, 4),
            "cpu_seconds": round(time.process_time() - cpu, 4),
            "parts": parts,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            "process": f"{os.uname().nodename}/{os.getpid()}",
        }
        (partial / _TIMES).write_text(json.dumps(times))
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        for file in partial.iterdir():
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        if error.strerror is None or not str(error.filename or "").startswith(str(root)):
            raise
        raise UserError(f"can't be written: {error.strerror}", where=str(error.filename)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _done(task, folder, manifest, times, skipped=False)


def adopt(tasks: Sequence[Task], root: Path) -> None:
    """Give tasks of a stage what others of it made from the same: where shards have moved on by a number, their folders
    do too."""
    folder = root / tasks[0].stage
    if not folder.is_dir():
        return
    unfinished = [task for task in tasks if finished(task, root) is None]
    # Shards that hold nothing of interest have the same key.
    left, in_place = {t.key: t for t in unfinished}, {t.name for t in tasks} - {t.name for t in unfinished}
    moves = []
    for path in sorted(folder.iterdir()) if left else ():
        manifest = path / _MANIFEST
        if path.name not in in_place and not path.name.startswith(".") and manifest.exists():
            with suppress(json.JSONDecodeError, KeyError):
                task = left.pop(json.loads(manifest.read_bytes())["key"], None)
                moves += [(path, folder / f".{path.name}.moving", task)] if task is not None else []
    for path, aside, _ in moves:
        path.rename(aside)
    for _, aside, task in moves:
        shutil.rmtree(task.folder(root), ignore_errors=True)
        aside.rename(task.folder(root))


def sweep(root: Path, kept: dict[str, set[str]]) -> None:
    """Remove what is of no task any more: stages that aren't named, other names in those that are, and what killed
    processes left half-made."""
    for stage in [path for path in root.iterdir() if path.is_dir()]:
        for folder in stage.iterdir():
            if folder.name not in kept.get(stage.name, set()):
                shutil.rmtree(folder, ignore_errors=True)
        if stage.name not in kept:
            shutil.rmtree(stage, ignore_errors=True)


def _done(task: Task, folder: Path, manifest: dict[str, Any], times: dict[str, Any], *, skipped: bool) -> Done:
    output = fingerprint([manifest["result"], manifest["files"]])
    return Done(task.stage, task.name, folder, manifest["result"], output, **times, skipped=skipped)


def _entry(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
