"""Ctrl-C, SIGTERM and SIGUSR1 at an agent: passed on to the workers once, which save. A second one leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from groundup.console import alert
from groundup.errors import EXIT_INTERRUPTED, Interrupted
from groundup.launch.worker import STOP_SIGNALS
from groundup.train.signals import REGROUP, REPEAT_SECONDS, STOPS, note


class Forwarding:
    """A context manager. `asked`: name of the signal that asked to stop, or "".

    While nodes are waited for it raises Interrupted; while workers are being started it waits until they are.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet  # rank 0 is among the workers, and says what is happening itself
        self.asked = ""
        self.paused = False  # whether the workers were asked to save and leave, to be started anew
        self.began = False  # whether there were workers already
        self.stage: Literal["waiting", "starting", "running"] = "waiting"
        self.pids: list[int] = []
        self._number, self._time = signal.SIGTERM, 0.0
        self._old: dict[signal.Signals, Any] = {}

    def started(self, pids: list[int]) -> None:
        """The workers run: signals go to them, one that came meanwhile too."""
        self.pids, self.stage, self.began = pids, "running", True
        if self.asked:
            self._send(STOP_SIGNALS[self._number])

    def pause(self) -> None:
        """Ask the workers to save and leave, unless they were asked already."""
        if not self.asked and not self.paused:
            self.paused = True
            self._send(STOP_SIGNALS[REGROUP])

    def ended(self) -> None:
        """There are no workers any more. Raises Interrupted where a signal asked to stop."""
        self.pids, self.stage, self.paused = [], "waiting", False
        if self.asked:
            raise self._interrupted()

    def _interrupted(self) -> Interrupted:
        if self.began:
            return Interrupted(f"stopped by {self.asked} between two starts of the ranks; the last checkpoint holds")
        return Interrupted(f"stopped by {self.asked} before training began")

    def kill(self) -> None:
        """End the workers at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked:
            if now - self._time > REPEAT_SECONDS:
                self.kill()
                os._exit(EXIT_INTERRUPTED)
            return
        self._number, self._time = signal.Signals(number), now
        self.asked = self._number.name
        note(number)
        if self.stage == "waiting":
            raise self._interrupted()
        if not self.quiet:
            alert(f"\n{self.asked}: passed on to the ranks, which save; once more leaves at once")
        # To workers that were asked already it would be the second signal, on which they leave without saving.
        if self.stage == "running" and not self.paused:
            self._send(STOP_SIGNALS[self._number])

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in STOPS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
