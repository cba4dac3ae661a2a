"""One training process: `python -m groundup.launch.worker JOB_FILE`, started by the agent and by nothing else.

It joins the process group, does the work the job names, and leaves a report of how that went.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from groundup import heartbeat
from groundup.errors import EXIT_INTERRUPTED, Interrupted
from groundup.launch.failure import Report, report_of
from groundup.orphans import die_with
from groundup.train.signals import REGROUP, STOPS

# What the agent sends in place of the signals it gets. The signals themselves may reach a worker too, from a terminal
# or a scheduler, and the second would have it leave without saving; so they are blocked, and only these count.
STOP_SIGNALS = {number: signal.SIGRTMIN + 5 + place for place, number in enumerate((*STOPS, REGROUP))}


@dataclass(frozen=True)
class WorkerJob:
    """What every worker of a node is told. `work`: a function, MODULE:NAME, of `arguments`; what it returns is JSON."""

    work: str
    arguments: dict[str, Any]
    folder: str  # for reports
    logs: str
    agent: int  # process id
    store: tuple[str, int]
    prefix: str  # of every key in the store
    cuda: bool
    hang_timeout: float  # seconds; 0: no watchdog

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def report_file(folder: Path, local_rank: int) -> Path:
    return folder / f"report-{local_rank}.json"


def log_file(logs: Path, rank: int) -> Path:
    return logs / f"rank-{rank}.log"


class Worker:
    """This process."""

    def __init__(self, job: WorkerJob) -> None:
        self.job = job
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.log = log_file(Path(job.logs), self.rank)

    def guard(self) -> None:
        """Die with the agent, stop only when it says so, and keep standard output out of results."""
        die_with(self.job.agent)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for sent in STOP_SIGNALS.values():
            signal.signal(sent, self._stop)
        os.dup2(2, 1)

    def _stop(self, sent: int, frame: FrameType | None) -> None:
        """The agent passes a signal on: the training's own handler takes it, where training has begun."""
        number = next(meant for meant, stands in STOP_SIGNALS.items() if stands == sent)
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, frame)
        else:
            self.end(
                report_of(Interrupted(f"stopped by {number.name} outside training"), self.rank, ""),
                EXIT_INTERRUPTED,
            )

    def end(self, report: Report, code: int | None = None) -> NoReturn:
        """Leave the report, and go without the clean-up that might wait for other ranks. With a code that is not 0
        the agent ends the other ranks. A full disk keeps no process from going: then its exit code is all it says."""
        if report.traceback and report.failed:
            with suppress(OSError), self.log.open("a") as log:
                log.write(report.traceback)
        path = report_file(Path(self.job.folder), self.local_rank)
        temporary = path.with_suffix(".part")
        with suppress(OSError):
            temporary.write_text(json.dumps(report.as_dict(), default=str))
            temporary.replace(path)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(report.exit_code if code is None else code)

    def _hung(self, table: str) -> NoReturn:
        told = Report("hang", self.rank, what=table, log=str(self.log), secondary=not table)
        if not table:
            told.what = "no step finished, and no lower rank told where ranks are"
        self.end(told)

    def run(self) -> NoReturn:
        try:
            value = self._work()
        except BaseException as error:
            self.end(report_of(error, self.rank, str(self.log)))
        self.end(Report("result", self.rank, value=value))

    def _work(self) -> Any:
        import torch
        from torch import distributed
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        from groundup.launch import watchdog

        module, name = self.job.work.split(":")
        timeout = timedelta(seconds=2 * self.job.hang_timeout + 60 if self.job.hang_timeout else 1800)

        def store(prefix: str) -> PrefixStore:
            return PrefixStore(
                f"{self.job.prefix}/{prefix}", TCPStore(*self.job.store, is_master=False, timeout=timeout)
            )

        if self.job.cuda:
            torch.cuda.set_device(self.local_rank)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if self.job.cuda else "gloo",
            store=store("group"),
            rank=self.rank,
            world_size=self.world,
            timeout=timeout,
        )
        if self.job.hang_timeout:
            watchdog.Watchdog(store("watchdog"), self.rank, self.world, self.job.hang_timeout, self._hung).start()
        value = getattr(importlib.import_module(module), name)(self.job.arguments)
        heartbeat.stop()
        # A rank that leaves while another still reads from it looks like one that died.
        end = store("end")
        if end.add("finished", 1) == self.world:
            end.set("all", "")
        end.wait(["all"])
        distributed.destroy_process_group()
        return value


def main() -> NoReturn:
    fields = json.loads(Path(sys.argv[1]).read_text())
    worker = Worker(WorkerJob(**{**fields, "store": tuple(fields["store"])}))
    worker.guard()
    worker.run()


if __name__ == "__main__":
    main()
