"""The folder of an export: it takes its place as a whole or not at all, and says what its files hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.errors import UserError

LINEAGE = "groundup.json"
CLASSIFIER = "groundup-classifier"  # the format that config.json of an exported classifier names


class ExportMismatch(RuntimeError):
    """What others make of the written folder isn't what the model computes; nothing was exported."""


@contextmanager
def replacing(folder: Path, weight_bytes: int) -> Iterator[Path]:
    """A new folder beside `folder`: it takes its place when the block ends well, else it is removed.

    weight_bytes: what it will hold, about. Raises UserError where there is no room, or where `folder` holds something
    that is no export.
    """
    folder = folder.resolve()
    new, previous = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "previous"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if previous.exists() and not folder.exists():  # a rename was cut off between its two halves
            previous.rename(folder)
        if folder.exists() and not (folder / LINEAGE).exists() and (folder.is_file() or any(folder.iterdir())):
            raise UserError(
                f"this is no export of ours: it holds no {LINEAGE}", where=str(folder), advice="Name another"
            )
        for leftover in (new, previous):
            if leftover.exists():
                shutil.rmtree(leftover)
        new.mkdir()
    except OSError as error:
        raise UserError(f"can't be written: {error.strerror}", where=str(folder.parent)) from None
    try:
        free = shutil.disk_usage(new).free
        if free < weight_bytes:
            raise UserError(
                f"the export takes {weight_bytes:,} bytes, {free:,} are free",
                where=str(folder.parent),
                advice="Make room",
            )
        yield new
        if folder.exists():
            folder.rename(previous)
        new.rename(folder)
    except BaseException:
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
        raise
    if previous.exists():
        shutil.rmtree(previous)


def write_json(path: Path, content: Any) -> None:
    """A document that people may read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """The SHA-256 of a file that has reached the disk, in hexadecimal digits."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
