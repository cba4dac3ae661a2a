"""The checkpoints of a run: which there are, which are whole, which are kept. Needs no torch.

`step-00000120/manifest.json`, with a checksum per file and one of itself, makes a checkpoint of the files in
`step-00000120/data-NONCE/`: it is renamed into place (or put) last, once all else is durable. Anything without it is
left over from a crash and cleaned up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from groundup import faults, heartbeat
from groundup.errors import UserError
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, fingerprint
from groundup.train.storage import Storage, checksum, open_storage, read

FORMAT = 3
MANIFEST = "manifest.json"

Manifest = dict[str, Any]


class CheckpointDamaged(Exception):
    """A checkpoint whose files are not those of its manifest."""


@contextmanager
def answering(place: str) -> Iterator[None]:
    """Storage that does not answer says nothing of what lies there: a UserError, and nobody calls anything damaged.
    FileNotFoundError is an answer."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"the storage of the checkpoints does not answer as it should: {error.strerror or error}",
            where=place,
            advice="Nothing of them was given up. Mend the storage, and the same command tries again; move away what "
            "can't be read, and the checkpoint before it is used",
        ) from error


def folder_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(folder: str) -> int | None:
    """None of a folder that is not one of ours, such as a copy that somebody made."""
    found = re.fullmatch(r"step-(\d{8,})", folder)
    return int(found[1]) if found else None


def sealed(manifest: Manifest) -> bytes:
    """A manifest's file, with a checksum of what it says."""
    return json.dumps({**manifest, "checksum": fingerprint(manifest)}, indent=1).encode()


class Checkpoints:
    """Those in one place. Every method raises UserError where the storage does not answer."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def place(self, step: int) -> str:
        """For messages."""
        return f"{self.storage.place}/{folder_of(step)}"

    def complete(self) -> list[int]:
        """Steps whose checkpoint has a manifest, oldest first."""
        return [step for step in self._steps() if MANIFEST in self.names(folder_of(step))]

    def _steps(self) -> list[int]:
        """Complete or not."""
        return sorted(step for name in self.names() if (step := step_of(name)) is not None)

    def names(self, folder: str = "") -> list[str]:
        with answering(self.storage.place):
            return self.storage.names(folder)

    def manifest(self, step: int) -> Manifest:
        """Raises CheckpointDamaged where it is missing or unreadable, UserError where another version wrote it."""
        try:
            with answering(self.place(step)):
                found: Manifest = json.loads(read(self.storage, f"{folder_of(step)}/{MANIFEST}"))
        except FileNotFoundError:
            raise CheckpointDamaged("its manifest is missing") from None
        except ValueError as error:
            raise CheckpointDamaged(f"its manifest can't be read: {error}") from None
        if not isinstance(found, dict):
            raise CheckpointDamaged("its manifest is no table")
        written = found.pop("checksum", None)
        if found.get("format") != FORMAT and written in (None, fingerprint(found)):
            raise UserError(
                f"this checkpoint's format is {found.get('format')}, and this version of groundup reads {FORMAT}",
                where=self.place(step),
                advice="Go on with the version that wrote it, or start over with --restart",
            )
        if written != fingerprint(found):
            raise CheckpointDamaged("its manifest does not have the checksum in it")
        return found

    def data(self, step: int) -> str:
        """The folder with the files of a complete checkpoint."""
        return f"{folder_of(step)}/{self.manifest(step)['data']}"

    def verify(self, step: int, share: tuple[int, int] = (0, 1)) -> Manifest:
        """The manifest, once every file has its checksum. Raises CheckpointDamaged.

        `share` (r, n): look only at the r-th of every n files.
        """
        manifest = self.manifest(step)
        for number, (name, expected) in enumerate(sorted(manifest["files"].items())):
            if number % share[1] == share[0]:
                self._verify_file(f"{folder_of(step)}/{manifest['data']}", name, expected)
        return manifest

    def _verify_file(self, folder: str, name: str, expected: str) -> None:
        try:
            with answering(f"{self.storage.place}/{folder}/{name}"):
                found = checksum(self.storage, f"{folder}/{name}", heartbeat.beat)
        except FileNotFoundError:
            raise CheckpointDamaged(f"{name} is missing") from None
        if found != expected:
            raise CheckpointDamaged(f"{name} does not have the checksum in the manifest")

    def set_aside(self, step: int) -> None:
        """Move a damaged checkpoint out of the way."""
        with answering(self.place(step)):
            self.storage.remove(f"damaged-{folder_of(step)}")
            self.storage.rename(folder_of(step), f"damaged-{folder_of(step)}")

    def clean_up(self) -> list[str]:
        """Remove what a crash left half written; the names of it. For one process, which holds the run."""
        removed = []
        for step in self._steps():
            folder = folder_of(step)
            inside = self.names(folder)
            if MANIFEST not in inside:
                removed.append(folder)
                continue
            try:
                kept = {MANIFEST, self.manifest(step)["data"]}
            except CheckpointDamaged:
                continue
            removed += [f"{folder}/{name}" for name in inside if name not in kept]
        with answering(self.storage.place):
            for path in removed:
                self.storage.remove(path)
        return removed

    def drop_damaged(self) -> list[str]:
        """Remove what was set aside; the names of it."""
        damaged = [name for name in self.names() if name[:8] == "damaged-" and step_of(name[8:]) is not None]
        with answering(self.storage.place):
            for name in damaged:
                self.storage.remove(name)
        return damaged

    def give_up(self, folder: str, data: str) -> None:
        """Remove a failed attempt, so that a full disk gets its room back."""
        with answering(self.storage.place):
            self.storage.remove(f"{folder}/{data}")
            if not self.storage.names(folder):
                self.storage.remove(folder)

    def prune(self, keep_last: int) -> list[int]:
        """Drop the complete checkpoints before the last so many, but for the best and those marked to be kept; the
        steps of what was dropped."""
        complete = self.complete()
        dropped: list[int] = []
        if len(complete) <= keep_last:
            return dropped
        best = self.manifest(complete[-1]).get("best")
        for step in complete[:-keep_last]:
            if (best is not None and step == best["step"]) or self._is_kept(step):
                continue
            faults.point("drop.begin")
            with answering(self.place(step)):
                # The manifest goes first: a deletion cut short leaves an incomplete checkpoint, not a damaged one.
                self.storage.remove(f"{folder_of(step)}/{MANIFEST}")
                faults.point("drop.unlisted")
                self.storage.remove(folder_of(step))
            dropped.append(step)
        return dropped

    def _is_kept(self, step: int) -> bool:
        try:
            return bool(self.manifest(step).get("keep"))
        except CheckpointDamaged:
            return False


def checkpoints_of(recipe: Recipe, run: RunDir) -> Checkpoints:
    """Where the recipe has them, or in the run folder. Raises UserError for a place that can't be reached."""
    return Checkpoints(open_storage(recipe.checkpoint.place or run.checkpoints))
