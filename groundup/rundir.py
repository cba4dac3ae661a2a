"""The run folder: all that a run made, which step made it from what, and who is working in it now.

recipe.toml            the resolved recipe            recipe.origins.json   where each value came from
lineage.json           code, machine, recipe          steps/NAME.json       record of each finished step
data/                  tokenizer, tokens, manifest    checkpoints/          training state by step
stages/                what each stage of preparing text made of each shard
metrics.jsonl          one line per log point         tensorboard/          the same as event files
evaluate.json          evaluation                     export/               the Hugging Face folder
report.html            the report                     report.json           its numbers
heartbeat.json         while training: the last sign of life
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from groundup.console import say
from groundup.errors import UserError
from groundup.recipe import show
from groundup.recipe.load import LoadedRecipe, load

LOOK_SECONDS = 0.5  # for so long a lock is waited for: it may be held by somebody who only looks whether it is


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file is the old one or the whole new one, whatever happens."""
    # Nodes that share the folder may have the same process id.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The document, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise UserError(
            f"damaged: {error}", where=str(path), advice="Delete it; the step that made it runs again"
        ) from None


def fingerprint(value: Any) -> str:
    """128 bits over the canonical JSON of a value."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, default=str).encode())


@dataclass(frozen=True)
class StepRecord:
    """What a finished step left behind. `fingerprint` is over all its inputs."""

    name: str
    fingerprint: str
    seconds: float
    finished: str
    result: dict[str, Any]


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Errors of the system while writing a run folder as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the run folder can't be written: {error.strerror}",
            where=str(path),
            advice="Make room there, or give a --run-dir that can be written",
        ) from None


class RunDir:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def stages(self) -> Path:
        return self.path / "stages"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.json"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.toml"

    def open(self, loaded: LoadedRecipe) -> None:
        """Make the folder, or take up one that belongs to this recipe; keep the resolved recipe in it.

        Raises UserError where it can't be written, holds something else, or belongs to a recipe of another name.
        """
        self.make(loaded.recipe.name)
        self.keep(loaded)

    def make(self, name: str) -> None:
        """Make the folder, or take up one that belongs to a recipe of this name; raises as `open`."""
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            # A lock alone was left by a command that went no further.
            if not self.recipe_file.exists() and any(path.name != "lock" for path in self.path.iterdir()):
                raise UserError(
                    "this folder holds other files and is no run folder",
                    where=str(self.path),
                    advice="Name an empty one",
                )
        old = self.recipe_name()
        if old is not None and old != name:
            raise UserError(
                f"this is the run folder of the recipe {old!r}, not of {name!r}",
                where=str(self.path),
                advice="Give another --run-dir, or the recipe its old name",
            )

    def keep(self, loaded: LoadedRecipe) -> None:
        """Keep the resolved recipe in the folder, and say what it changes in the one that is there."""
        with suppress(UserError):  # none is there, or one of another version
            for key, (old, new) in show.changes(load(self.recipe_file), loaded).items():
                say(f"{self.recipe_file}: {key} was {old}, is {new}")
        origins = json.dumps(show.origins(loaded), indent=1)
        with writable(self.path):
            write_atomically(self.recipe_file, show.to_toml(loaded.recipe))
            write_atomically(self.path / show.ORIGINS, origins)

    def recipe_name(self) -> str | None:
        """The name in the folder's recipe; None where there is none."""
        import tomllib

        try:
            return str(tomllib.loads(self.recipe_file.read_text())["name"])
        except FileNotFoundError:
            return None
        except (tomllib.TOMLDecodeError, KeyError):
            raise UserError("this is no recipe that groundup wrote", where=str(self.recipe_file)) from None

    def record(self, name: str) -> StepRecord | None:
        """The record of a step that finished; None where it has not."""
        found = read_json(self.path / "steps" / f"{name}.json")
        return StepRecord(**found) if found else None

    def finish(self, name: str, inputs: str, seconds: float, result: dict[str, Any]) -> StepRecord:
        """Record that a step finished. `inputs`: fingerprint of all that it was made from. Raises UserError."""
        record = StepRecord(name, inputs, round(seconds, 3), time.strftime("%Y-%m-%dT%H:%M:%S%z"), result)
        with writable(self.path):
            (self.path / "steps").mkdir(exist_ok=True)
            write_atomically(self.path / "steps" / f"{name}.json", json.dumps(record.__dict__, indent=1))
        return record

    @contextmanager
    def lock(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the folder for writing, alone or with others that share it. The system releases it when the process
        ends, however it ends."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with writable(self.path):
            file = (self.path / "lock").open("a+")  # on NFS one has to be able to write, the other to read
        with file:
            patience = time.monotonic() + LOOK_SECONDS
            while True:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() < patience:
                        time.sleep(LOOK_SECONDS / 20)
                        continue
                    raise UserError(
                        "another process is working in this run folder",
                        where=str(self.path),
                        advice="Wait for it, or give another --run-dir",
                    ) from None
            yield

    def busy(self) -> bool:
        """Whether a process holds the lock. To learn it, the lock is taken for a moment."""
        try:
            path = self.path / "lock"
            with path.open("r+" if os.access(path, os.W_OK) else "r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def load_manifest(run: RunDir) -> dict[str, Any]:
    """The manifest of prepared data. Raises UserError where nothing is prepared."""
    manifest: dict[str, Any] | None = read_json(run.data / "manifest.json")
    if manifest is None:
        raise UserError("no data is prepared here", where=str(run.path), advice=f"Run: groundup prepare {run.path}")
    return manifest


def is_run(path: Path) -> bool:
    return (path / "recipe.toml").is_file()


def existing(path: Path) -> RunDir:
    """A run folder that must be there. Raises UserError with the nearest one otherwise."""
    if is_run(path):
        return RunDir(path)
    parent = path.parent
    names = [p.name for p in parent.iterdir() if is_run(p)] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1, 0.5)
    raise UserError(
        "this is no run folder: it holds no recipe.toml" if path.exists() else "there is no such run folder",
        where=str(path),
        advice=f"Did you mean {parent / near[0]}?" if near else "`groundup run RECIPE --run-dir DIR` makes one",
    )
