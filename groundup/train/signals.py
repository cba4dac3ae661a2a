"""Ctrl-C, SIGTERM and SIGUSR1: finish the step, save, leave. A second one leaves at once."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Self

from groundup.console import alert
from groundup.errors import EXIT_INTERRUPTED

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is what Slurm jobs like to ask for
REGROUP = signal.SIGUSR2  # of an agent to its workers: nodes come or go, so that the workers start anew


class StopRequest:
    """True once a signal asked to stop, or the deadline (seconds since the epoch) has come. A context manager that puts
    the old handlers back."""

    def __init__(self, deadline: float | None = None) -> None:
        self.asked, self.deadline = "", deadline
        self.old: dict[int, object] = {}

    def __bool__(self) -> bool:
        if not self.asked and self.deadline is not None and time.time() > self.deadline:
            self.asked = "train.time_limit"
            alert(f"\n{self.asked} is reached: saving")
        return bool(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(EXIT_INTERRUPTED)
        self.asked = "a change of nodes" if number == REGROUP else signal.Signals(number).name
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
