"""A sign of life from whatever takes long in training, for the watchdog of a job on many processes."""

from __future__ import annotations

import time

last_beat: float | None = None  # None where nobody watches


def start() -> None:
    """Somebody watches from now on."""
    global last_beat
    last_beat = time.monotonic()


def beat() -> None:
    """A step is finished, or as much as one. Costs nothing where nobody watches."""
    global last_beat
    if last_beat is not None:
        last_beat = time.monotonic()


def stop() -> None:
    """No more steps are to come."""
    global last_beat
    last_beat = None
