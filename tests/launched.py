"""Launching `tests.launch_work` and the command line in processes of their own, and waiting for what they do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def launched(work: str, folder: Path, local: int = 2, **told: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that launches `tests.launch_work:WORK` on `local` workers, in a process group of its own."""
    document = {"work": work, "logs": str(folder / "logs"), "processes": {"local": local}, **told}
    command = [sys.executable, "-m", "tests.launch_work", json.dumps(document)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one JSON document on standard output, and standard error."""
    out, err = process.communicate(timeout=150)
    return process.returncode, json.loads(out), err


def until(happened: Callable[[], object], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@contextmanager
def meeting_place(port: int = 0) -> Iterator[str]:
    """The address of `groundup rendezvous`."""
    command = [sys.executable, "-m", "groundup", "rendezvous", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield process.stderr.readline().split()[2].removesuffix(";")
        finally:
            process.kill()
