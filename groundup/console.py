"""What a person sees: progress on standard error, results on standard output.

A terminal gets one live line per job; anything else gets plain lines at intervals, so that logs stay readable.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 5.0  # distance of plain progress lines

_log: IO[str] | None = None  # where lines go while `into_file` is in force


def say(text: str = "") -> None:
    """A line for the person watching. A log on a full disk, or a terminal that is gone, is no reason to end."""
    with suppress(OSError):
        print(text, file=_log or sys.stderr, flush=True)


def alert(text: str) -> None:
    """A line that reaches the person even where `into_file` is in force."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


@contextmanager
def into_file(path: Path) -> Iterator[None]:
    """Append what is said within to a file, and show no live line of bars made within: for a job that is one of many.
    Bars made outside go on as they were."""
    global _log
    before = _log
    with path.open("a", encoding="utf-8") as _log:
        try:
            yield
        finally:
            _log = before


def size(number: float, unit: str = "") -> str:
    """A number with an SI prefix: 16.9 M, 84 G."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def span(seconds: float) -> str:
    """A length of time: 42 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600} h"


class Bar:
    """Progress of one job. `total` and `advance` are in `unit`; rates and the time left are worked out here."""

    def __init__(self, name: str, total: float | None, unit: str = "B") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.note = 0.0, ""
        self.skipped = 0.0  # of what is done, what took no time now
        self.start = self.printed = time.monotonic()
        self._live: Progress | None = None
        self._log = _log

    def __enter__(self) -> Self:
        if self._log is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._live = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}% {task.fields[rate]} {task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task(self.name, total=self.total, rate="", note="")
        return self

    def rate(self) -> str:
        return f"{size((self.done - self.skipped) / max(time.monotonic() - self.start, 1e-9), self.unit)}/s"

    def skip(self, amount: float, note: str | None = None) -> None:
        """As `advance`, for what was done before: it counts for no rate."""
        self.skipped += amount
        self.advance(amount, note)

    def advance(self, amount: float, note: str | None = None) -> None:
        self.done += amount
        if note is not None:
            self.note = note
        if self._live is not None:
            self._live.update(self._task, completed=self.done, rate=self.rate(), note=self.note)
        elif time.monotonic() - self.printed >= PLAIN_SECONDS:
            self.printed = time.monotonic()
            share = f"{100 * self.done / self.total:3.0f}%  " if self.total else ""
            left = ""
            if self.total and self.done > self.skipped:
                pace = (self.printed - self.start) / (self.done - self.skipped)
                left = f"  {span(pace * (self.total - self.done))} left"
            self._line(
                f"{self.name:<12} {share}{size(self.done, self.unit)}  {self.rate()}{left}  {self.note}".rstrip()
            )

    def show(self, done: float, line: str) -> None:
        """Progress whose line the caller words: the live line's on a terminal, a plain line elsewhere."""
        self.done = done
        if self._live is not None:
            self._live.update(self._task, completed=done, rate="", note=line)
        else:
            self._line(line)

    def write(self, text: str) -> None:
        """A lasting line above the live one."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        with suppress(OSError):  # as of `say`
            print(text, file=self._log or sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


@contextmanager
def clean_stdout() -> Iterator[IO[str]]:
    """Send whatever is printed, by us, by libraries and by child processes, to standard error; yield the real
    standard output. So `--json` gives one document and nothing else."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(real), "w") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
