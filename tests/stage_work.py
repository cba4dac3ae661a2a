"""Tasks for the tests of executors."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from groundup.errors import UserError


def numbers(out: Path, root: Path, start: int, count: int) -> dict[str, Any]:
    """Write `count` numbers from `start` on."""
    (out / "numbers.txt").write_text("".join(f"{n}\n" for n in range(start, start + count)))
    return {"sum": sum(range(start, start + count)), "seconds": {"counting": [0.5, 0.25]}}


def traced(out: Path, root: Path, name: str, trace: str) -> dict[str, Any]:
    """Leave a line in `trace` each time this runs."""
    with Path(trace).open("a") as file:
        file.write(f"{name} {os.getpid()}\n")
    time.sleep(0.05)
    (out / "name.txt").write_text(name)
    return {}


def mistaken(out: Path, root: Path) -> dict[str, Any]:
    (out / "half.txt").write_text("half")
    raise UserError("is no number", where="corpus.jsonl:3", expected="a number", advice="Mend it")


def killed(out: Path, root: Path) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def bereaved(out: Path, root: Path) -> dict[str, Any]:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return {}


def sleeping(out: Path, root: Path, seconds: float) -> dict[str, Any]:
    (root / f"sleeping-{os.getpid()}").touch()
    time.sleep(seconds)
    return {}


def variable(out: Path, root: Path, name: str) -> dict[str, Any]:
    return {"value": os.environ.get(name)}
