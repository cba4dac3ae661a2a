"""Does to a running job what its plan says, when it says so, and notes what came about."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from groundup.rundir import RunDir
from groundup.torture.disk import empty, fill
from groundup.torture.job import Job, send
from groundup.torture.schedule import AGENT, ALL, FULL, RANK, TERM, Act, Plan

# A point that no rank has passed by then is not waited for.
_PATIENCE_STEPS, _PATIENCE_SECONDS = 8, 40.0


class Inflicting:
    """The faults of one job. `marks`: a folder for itself. `room`: bytes that a full disk has left."""

    def __init__(self, plan: Plan, run: RunDir, marks: Path, room: int) -> None:
        self.plan, self.run, self.marks, self.room = plan, run, marks, room
        self.done = [False] * len(plan.acts)
        self.came = [False] * len(plan.acts)
        self.filled: int | None = None  # since when the disk is full, in bytes of metrics.jsonl
        self.termed = False
        self.in_order = False  # stopped while all ranks trained, and nothing else was done to them since
        marks.mkdir(parents=True)
        self.started()

    def points(self) -> list[dict[str, Any]]:
        """Faults that the ranks inflict on themselves, see groundup/faults.py."""
        return [
            {"name": a.at, "action": a.action, "rank": a.rank, "skip": a.skip, "once": str(self.marks / str(number))}
            for number, a in enumerate(self.plan.acts)
            if a.when == "point"
        ]

    def started(self) -> None:
        """The ranks run anew."""
        self.since, self.at = time.monotonic(), self._size()

    def look(self, job: Job | None, *, over: bool) -> list[tuple[Act, str]]:
        """What came about since the last look, with a line for people; and do what is due. `job` None: it has ended.
        `over`: nothing more is to be done."""
        found = []
        for number, act in enumerate(self.plan.acts):
            if act.when == "point" and not self.came[number] and (self.marks / str(number)).exists():
                found.append((act, f"{act.kind} (rank {act.rank}, {act.action} at {act.at})"))
                self.done[number] = self.came[number] = True
                self.in_order = False
        found += self._full_disk(ended=job is None)
        if job is None or over or self.filled is not None:
            return found
        due = [number for number, done in enumerate(self.done) if not done]
        if not due or self.termed:
            return found
        number, act = due[0], self.plan.acts[due[0]]
        if act.when == "point":
            self.done[number] = self._tired()
        elif self._due(act) and self._ready(act, job):
            self.done[number] = True
            if act.kind == FULL:
                self.filled = self._size()
                self.started()
                fill(self.run.checkpoints, self.room)
            else:
                self.came[number] = True
                found.append((act, self._hit(act, job)))
        return found

    def missed(self) -> list[Act]:
        """What did not come about."""
        return [act for act, came in zip(self.plan.acts, self.came, strict=True) if not came]

    def disk_filled(self) -> bool:
        return any(done and act.kind == FULL for act, done in zip(self.plan.acts, self.done, strict=True))

    def agent_killed(self) -> bool:
        """Whether the job's own process, which is the agent where there are many, was killed."""
        alone = self.plan.layout.world == 1
        return any(
            came
            and (act.kind in (AGENT, ALL) or act.action == "kill-parent" or (alone and act.kind not in (TERM, FULL)))
            for act, came in zip(self.plan.acts, self.came, strict=True)
        )

    def _full_disk(self, *, ended: bool) -> list[tuple[Act, str]]:
        """Once a checkpoint could not be written there is room again."""
        if self.filled is None:
            return []
        failed = self._since(self.filled).count(b'"checkpoint_failed"')
        if not failed and not ended and not self._tired():
            return []
        self.filled = None
        empty(self.run.checkpoints)
        self.since, self.at = time.monotonic(), self._size()
        if not failed:
            return []
        number = next(n for n, act in enumerate(self.plan.acts) if act.kind == FULL and self.done[n])
        self.came[number] = True
        return [(self.plan.acts[number], f"{FULL}: {failed} checkpoints could not be written")]

    def _hit(self, act: Act, job: Job) -> str:
        ranks = job.ranks()
        when = f"{time.monotonic() - self.since:.1f} s after the start, {self._steps()} steps"
        self.in_order = act.kind == TERM and len(ranks) == self.plan.layout.world and self._steps() > 0
        if act.kind == RANK:
            send(ranks[act.rank] if ranks else job.process.pid, signal.SIGKILL)
            return f"{act.kind}: {act.rank} ({when})"
        if act.kind == ALL:
            job.kill_all()
        elif act.kind == AGENT:
            send(job.process.pid, signal.SIGKILL)
        else:
            self.termed = True
            send(job.process.pid, signal.SIGTERM)
        return f"{act.kind} ({when})"

    def _due(self, act: Act) -> bool:
        if act.when == "seconds":
            return time.monotonic() - self.since > act.value
        if act.when == "steps":
            return self._steps() >= act.value
        return self._saving() or self._tired()

    def _ready(self, act: Act, job: Job) -> bool:
        return act.kind != RANK or self.plan.layout.world == 1 or len(job.ranks()) > act.rank

    def _tired(self) -> bool:
        return self._steps() >= _PATIENCE_STEPS or time.monotonic() - self.since > _PATIENCE_SECONDS

    def _saving(self) -> bool:
        """Whether a checkpoint is half written."""
        return any(
            not (folder / "manifest.json").exists() and any(folder.glob("data-*/*"))
            for folder in self.run.checkpoints.glob("step-*")
        )

    def _steps(self) -> int:
        """Steps since the ranks started, or since the last time that the disk was full."""
        return self._since(self.at).count(b'"kind": "train"')

    def _since(self, at: int) -> bytes:
        if not self.run.metrics.exists():
            return b""
        with self.run.metrics.open("rb") as file:
            file.seek(at)
            return file.read()

    def _size(self) -> int:
        return self.run.metrics.stat().st_size if self.run.metrics.exists() else 0
