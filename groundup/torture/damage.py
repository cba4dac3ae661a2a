"""Damage to the files of a checkpoint while nothing runs, and what is whole in a folder of checkpoints. It looks at the
files by itself: what the product thinks of them is what is put to the test."""

from __future__ import annotations

import json
import random
from pathlib import Path

AT_REST = ("flipped byte", "truncated shard", "missing shard")


def complete(folder: Path) -> list[int]:
    """Steps whose checkpoint has a manifest, oldest first."""
    return sorted(int(path.parent.name.removeprefix("step-")) for path in folder.glob("step-*/manifest.json"))


class Damage:
    """What was done to the checkpoints in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: set[tuple[int, int]] = set()

    def _mark(self, step: int) -> tuple[int, int]:
        """Tells a checkpoint from a later one of the same step."""
        return step, self._manifest(step).stat().st_mtime_ns

    def _manifest(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}" / "manifest.json"

    def newest(self) -> int | None:
        """Step of the newest checkpoint that is complete and undamaged."""
        return max((step for step in complete(self.folder) if self._mark(step) not in self.done), default=None)

    def possible(self) -> bool:
        """Whether a checkpoint can be damaged and another be left."""
        return sum(self._mark(step) not in self.done for step in complete(self.folder)) > 1

    def inflict(self, kind: str, dice: random.Random) -> tuple[int, str]:
        """Damage the newest that is whole; its step, and what was done."""
        step = self.newest()
        assert step is not None
        manifest = self._manifest(step)
        data = sorted(path for path in manifest.parent.glob("data-*/*") if path.is_file())
        file = dice.choice([*data, manifest] if kind == "flipped byte" else data)
        if kind == "flipped byte":
            what = _flip(file, dice)
        elif kind == "truncated shard":
            length = dice.randrange(file.stat().st_size)
            with file.open("r+b") as stream:
                stream.truncate(length)
            what = f"{file.name} cut to {length} bytes"
        else:
            file.unlink()
            what = f"{file.name} removed"
        self.done.add(self._mark(step))
        return step, what


def _flip(file: Path, dice: random.Random) -> str:
    """Change one bit; in a manifest one that changes what it says."""
    old = file.read_bytes()
    while True:
        place, bit = dice.randrange(len(old)), dice.randrange(8)
        new = bytearray(old)
        new[place] ^= 1 << bit
        if file.name != "manifest.json" or _parsed(bytes(new)) != _parsed(old):
            break
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(new[place : place + 1])
    return f"bit {bit} of byte {place} of {file.name} flipped"


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None
