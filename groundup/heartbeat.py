"""A sign of life from whatever takes long in training: for the watchdog of a job on many processes, and in the run
folder for `groundup status`."""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WRITE_SECONDS = 1.0  # between two writes of the file

last_beat: float | None = None  # None where nobody watches
_file: Path | None = None
_facts: dict[str, Any] = {}
_spans: deque[float] = deque(maxlen=50)  # seconds of the last steps
_step_end = _written = 0.0


def start() -> None:
    """Somebody watches from now on."""
    global last_beat
    last_beat = time.monotonic()


def stop() -> None:
    """No more steps are to come."""
    global last_beat
    last_beat = None


def beat() -> None:
    """A step is finished, or as much as one. Costs nothing where nobody watches."""
    global last_beat
    if last_beat is not None:
        last_beat = time.monotonic()
    if _file is not None and time.monotonic() - _written > WRITE_SECONDS:
        _write()


def step_done(step: int) -> None:
    """A step is finished."""
    global _step_end
    now = time.monotonic()
    if _facts.get("step") is not None:  # the first holds the start, and may hold compilation
        _spans.append(now - _step_end)
    _step_end = now
    _facts.update(step=step, step_time=time.time())
    beat()


@contextmanager
def shown(file: Path | None) -> Iterator[None]:
    """Keep `file` up to date: JSON with the time of the last sign of life, of the last step, and how long steps take.
    It is removed at the end, and stays where the process is killed. None: no file."""
    global _file, _step_end
    _file, _step_end = file, time.monotonic()
    _spans.clear()
    _facts.clear()
    _facts.update(host=socket.gethostname(), pid=os.getpid(), step=None, step_time=time.time())
    if file is not None:
        _write()
    try:
        yield
    finally:
        _file = None
        if file is not None:
            file.unlink(missing_ok=True)


def _write() -> None:
    global _written
    assert _file is not None
    _written = time.monotonic()
    facts = {**_facts, "time": time.time(), "seconds_per_step": statistics.median(_spans) if _spans else None}
    temporary = _file.with_name(f".{_file.name}")
    # A full disk must not end a training that goes on without this file.
    with suppress(OSError):
        temporary.write_text(json.dumps(facts))
        temporary.replace(_file)
