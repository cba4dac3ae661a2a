"""Ctrl-C and SIGTERM at an agent: passed on to the workers once, which save. A second one leaves at once."""

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

REPEAT_SECONDS = 0.5  # a repetition within it is the same request, sent to this process and to its group


class Forwarding:
    """A context manager. `asked`: name of the signal that asked to stop, or "".

    While nodes are waited for it raises Interrupted; while workers are being started it waits until they are.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet  # rank 0 is among the workers, and says what is happening itself
        self.asked = ""
        self.stage: Literal["waiting", "starting", "running"] = "waiting"
        self.pids: list[int] = []
        self._number, self._time = signal.SIGTERM, 0.0
        self._old: dict[signal.Signals, Any] = {}

    def started(self, pids: list[int]) -> None:
        """The workers run: signals go to them, one that came meanwhile too."""
        self.pids, self.stage = pids, "running"
        if self.asked:
            self._send(STOP_SIGNALS[self._number])

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
        if self.stage == "waiting":
            raise Interrupted(f"stopped by {self.asked} before training began")
        if not self.quiet:
            alert(f"\n{self.asked}: passed on to the ranks, which save; once more leaves at once")
        if self.stage == "running":
            self._send(STOP_SIGNALS[self._number])

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
