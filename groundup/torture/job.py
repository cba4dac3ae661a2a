"""One `groundup train` as a process of its own, the processes below it, and signals to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_WORKER = b"groundup.launch.worker"


def worker_pids(agent: int) -> list[int]:
    """The ranks that run below an agent, in the order of their start; from /proc."""
    found = []
    for children in Path(f"/proc/{agent}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(pid) for pid in children.read_text().split() if _is_worker(int(pid))]
    return sorted(found)


def _is_worker(pid: int) -> bool:
    try:
        return _WORKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and waits to be asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Job:
    """`arguments`: of groundup. `faults`: see groundup/faults.py. Standard error goes to `log`."""

    def __init__(self, arguments: list[str], log: Path, faults: dict[str, Any]) -> None:
        self.seen: list[int] = []  # every rank's process there was
        environment = {**os.environ, "GROUNDUP_FAULTS": json.dumps(faults)}
        with log.open("ab") as errors, log.with_suffix(".json").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "groundup", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the one that tortures
            )

    def ranks(self) -> list[int]:
        """Processes of the ranks that run; of a job without an agent the job itself."""
        found = worker_pids(self.process.pid)
        self.seen += [pid for pid in found if pid not in self.seen]
        return found

    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def kill_all(self) -> None:
        """Every process at once."""
        for pid in (self.process.pid, *self.ranks()):
            send(pid, signal.SIGKILL)

    def end(self, patience: float = 30.0) -> int:
        """Wait until no process of it is left; what is left after so many seconds is killed. Its exit code."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        if self.process.poll() is None:
            self.kill_all()
        code = self.process.wait()
        deadline = time.monotonic() + patience
        while any(alive(pid) for pid in self.seen):
            if time.monotonic() > deadline:
                for pid in self.seen:
                    send(pid, signal.SIGKILL)
            time.sleep(0.01)
        return code
