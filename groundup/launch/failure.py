"""What became of a worker: its report, and which of many failures is the one to tell."""

from __future__ import annotations

import signal
import socket
import time
import traceback
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from groundup.errors import EXIT_FAULT, EXIT_USER, BadStep, Interrupted, RecipeError, Superseded, UserError

Kind = Literal["result", "interrupted", "user", "superseded", "fault", "hang", "death", "lost", "bad step"]


class RankFailed(Exception):
    """A fault in one of the training processes. The message names the rank, its host and its log."""


@dataclass
class Report:
    """What a worker says of itself before it ends, or its agent of it. `secondary`: the failure of another is why."""

    kind: Kind
    rank: int
    host: str = field(default_factory=socket.gethostname)
    time: float = field(default_factory=time.time)
    what: str = ""
    traceback: str = ""
    log: str = ""
    secondary: bool = False
    value: Any = None  # of a result; of a user's mistake its parts, and of a recipe's its problems

    @property
    def failed(self) -> bool:
        return self.kind not in ("result", "interrupted")

    @property
    def exit_code(self) -> int:
        return {"result": 0, "interrupted": 0, "user": EXIT_USER}.get(self.kind, EXIT_FAULT)

    @property
    def passing(self) -> bool:
        """Whether the same work may succeed when it is started again."""
        return self.kind in ("fault", "hang", "death", "lost")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def error(self) -> Exception:
        """The exception that the command line shows for it. `--debug` shows the worker's traceback as its note."""
        error: Exception
        if self.kind == "interrupted":
            return Interrupted(self.what)
        if self.kind == "superseded":
            return Superseded(self.what)
        if self.kind == "bad step":
            return BadStep(self.what)
        if self.kind == "user":
            problems = [UserError(**problem) for problem in self.value]
            error = problems[0] if len(problems) == 1 else RecipeError(problems)
        else:
            log = f"; log: {self.log}" if self.log else ""
            error = RankFailed(
                self.what if self.kind in ("hang", "lost") else f"rank {self.rank} on {self.host}: {self.what}{log}"
            )
        if self.traceback:
            error.add_note(f"rank {self.rank} on {self.host}:\n{self.traceback}")
        return error


def report_of(error: BaseException, rank: int, log: str) -> Report:
    """The report of a worker that ends with this exception."""
    report = Report("fault", rank, what=f"{type(error).__name__}: {error}", log=log, secondary=is_secondary(error))
    report.traceback = "".join(traceback.format_exception(error))
    if isinstance(error, Interrupted):
        report.kind, report.what = "interrupted", str(error)
    elif isinstance(error, Superseded):
        report.kind, report.what = "superseded", str(error)
    elif isinstance(error, BadStep):
        report.kind, report.what = "bad step", str(error)
    elif isinstance(error, UserError):
        report.kind = "user"
        report.value = [p.as_dict() for p in (error.problems if isinstance(error, RecipeError) else [error])]
    return report


def is_secondary(error: BaseException) -> bool:
    """Whether a connection to another rank broke: then that rank's failure is the one to tell."""
    text = str(error)
    broken = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out")
    communication = type(error).__module__.startswith("torch.distributed") or any(
        name in text for name in ("gloo", "NCCL", "TCPStore")
    )
    return communication and (type(error).__name__.startswith("Dist") or any(part in text for part in broken))


def death(rank: int, code: int, log: str) -> Report:
    """The report of a worker that ended with this exit status and said nothing itself."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return Report("death", rank, what=f"killed by {name}", log=log)
    return Report("death", rank, what=f"ended with exit code {code} and no word", log=log)


def first(reports: list[Report]) -> Report:
    """The failure that came first: one with a cause of its own before those that followed from it."""
    return min(reports, key=lambda report: (report.secondary, report.time, report.rank))
