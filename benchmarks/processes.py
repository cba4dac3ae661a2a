"""What a command takes, with all processes that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.2  # seconds between looks at the memory


@dataclass(frozen=True)
class Use:
    """cpu_seconds: of the process and of all it waited for, as the system counts them. peak_memory_mb: of the whole
    tree at one time, memory that processes share counted once (10^6 bytes)."""

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    output: str

    def rate(self, megabytes: float) -> float:
        """Megabytes per CPU second."""
        return round(megabytes / self.cpu_seconds, 3)

    def figures(self, megabytes: float) -> dict[str, float]:
        return {
            "megabytes": round(megabytes, 1),
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "megabytes_per_cpu_second": self.rate(megabytes),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
        }


def run(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Use:
    """Run a command to its end. Its errors go to a log that is shown where it fails, and then this program ends."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        peak = [0]
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, done))
        errors: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=lambda stream: errors.append(stream.read()), args=(process.stderr,))
        watcher.start()
        reader.start()
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
        reader.join()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nexited with {process.returncode}:\n{errors[0][-3000:]}")
    return Use(seconds, usage.ru_utime + usage.ru_stime, peak[0] / 1e6, output)


def _watch(pid: int, peak: list[int], done: threading.Event) -> None:
    # The system takes milliseconds to share out a process's pages, so it is asked when there are more than ever before.
    most = 0
    while not done.wait(_EVERY):
        processes = _tree(pid)
        resident = sum(map(_resident, processes))
        if resident > 1.02 * most:
            most = resident
            peak[0] = max(peak[0], sum(map(_proportional, processes)))


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _resident(pid: int) -> int:
    """Bytes, pages that others share too."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    """Bytes, of shared pages this process's part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
