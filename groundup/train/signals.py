"""Ctrl-C, SIGTERM and SIGUSR1: finish the step, save, leave. A second one leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from groundup.console import alert
from groundup.errors import EXIT_INTERRUPTED, Interrupted

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is what Slurm jobs like to ask for
REGROUP = signal.SIGUSR2  # of an agent to its workers: nodes come or go, so that the workers start anew


# The signal that asked to stop since `interruptible` was entered, whoever took it; None outside of it.
_asked: str | None = None

REPEAT_SECONDS = 0.5  # a repetition within it is the same request, sent to this process and to its group


def note(number: int) -> None:
    """A handler in place of that of `interruptible` took this signal."""
    global _asked
    if _asked is not None:
        _asked = signal.Signals(number).name


def leave_if_asked() -> None:
    """Raise Interrupted where a signal has asked to stop: one that comes while a training's last checkpoint is written
    leaves nothing to stop in the training, but no step is to begin after it."""
    if _asked:
        raise Interrupted(f"stopped by {_asked}")


class StopRequest:
    """True once a signal asked to stop, or the deadline (seconds since the epoch) has come. A context manager that puts
    the old handlers back."""

    def __init__(self, deadline: float | None = None) -> None:
        self.asked, self.deadline = "", deadline
        self._time = 0.0
        self.old: dict[int, object] = {}

    def __bool__(self) -> bool:
        if not self.asked and self.deadline is not None and time.time() > self.deadline:
            self.asked = "train.time_limit"
            alert(f"\n{self.asked} is reached: saving")
        return bool(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked:
            if now - self._time > REPEAT_SECONDS:
                os._exit(EXIT_INTERRUPTED)
            return
        self._time = now
        self.asked = "a change of nodes" if number == REGROUP else signal.Signals(number).name
        note(number)
        alert(f"\n{self.asked}: finishing this step and saving; once more leaves at once")

    def __enter__(self) -> Self:
        for number in (*STOPS, REGROUP):
            self.old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


@contextmanager
def interruptible() -> Iterator[None]:
    """A stop raises Interrupted in this process, where nothing else takes the signal: before training and after it."""
    global _asked
    _asked = ""
    try:
        with _handlers():
            yield
    finally:
        _asked = None


@contextmanager
def _handlers() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    here = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != here:  # a process forked from this one ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    old = {number: signal.signal(number, handle) for number in STOPS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
