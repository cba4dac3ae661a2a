"""One round: a training from its first step to its last, through whatever is planned."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from groundup.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_USER
from groundup.recipe.layout import Layout
from groundup.rundir import RunDir
from groundup.torture.damage import Damage
from groundup.torture.disk import empty
from groundup.torture.history import Segment, Start, segments
from groundup.torture.inflict import Inflicting
from groundup.torture.job import Job
from groundup.torture.schedule import LAYOUT, NAN, TERM, Plan, Schedule
from groundup.torture.subject import Subject, layout_settings

_POLL = 0.02
_HANG = 180.0  # seconds without a sign of life in metrics.jsonl, after which a job counts as hung
_MOST_JOBS = 60  # in a round: with so many it gets nowhere


@dataclass
class Told:
    """What a round came to. `finished`: whether it came to its last step; `starts`: of its ranks, in order; `faults`:
    the kinds, as they came."""

    run: RunDir
    finished: bool = False
    starts: list[Start] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def segments(self) -> list[Segment]:
        return segments(self.run.metrics.read_bytes(), self.starts) if self.run.metrics.exists() else []


class Round:
    """`schedule` None: nothing is done to it. `over`: whether the time for faults is. `tell`: says a line to the person
    watching. `room`: bytes that a full disk has left; 0: it can't be filled. `faithful`: the layout never changes."""

    def __init__(
        self,
        subject: Subject,
        run: RunDir,
        schedule: Schedule | None,
        over: Callable[[], bool],
        tell: Callable[[str], None],
        *,
        room: int = 0,
        faithful: bool = True,
    ) -> None:
        self.subject, self.run, self.schedule = subject, run, schedule
        self.over, self.tell, self.room, self.faithful = over, tell, room, faithful
        self.dice = schedule.dice if schedule else random.Random(0)
        self.told = Told(run)
        self.damage = Damage(run.checkpoints)
        self.damaged: list[tuple[int, int]] = []  # step, and number of the start that must tell
        self.jobs = 0

    def drive(self) -> Told:
        """To the last step, or until a problem stands in the way."""
        layout: Layout | None = None
        while not self.told.problems:
            plan = Plan(layout or self.subject.layouts[0])
            if self.schedule is not None and not self.over():
                plan = self.schedule.plan(layout, self.faithful, self.room > 0)
            self._between(plan, layout)
            layout = plan.layout
            code = self._job(plan)
            self.jobs += 1
            self.told.finished = code == 0
            if self.told.finished:
                break
            if self.jobs == _MOST_JOBS:
                self.told.problems.append(f"not at its end after {_MOST_JOBS} jobs")
        parts = self.told.segments()
        self.told.faults += [NAN] * sum(part.bad for part in parts)
        self.told.problems += [
            problem for step, number in self.damaged for problem in self._silent(step, number, parts)
        ]
        return self.told

    def _between(self, plan: Plan, before: Layout | None) -> None:
        """What happens while nothing runs."""
        if before is not None and plan.layout != before:
            self._count(LAYOUT, f"{LAYOUT}: from {before.name} to {plan.layout.name}")
        if plan.at_rest is not None and self.damage.possible():
            step, what = self.damage.inflict(plan.at_rest, self.dice)
            self.damaged.append((step, len(self.told.starts)))
            self._count(plan.at_rest, f"{plan.at_rest} in the checkpoint of step {step}: {what}")

    def _count(self, kind: str, line: str) -> None:
        self.told.faults.append(kind)
        self.tell(line)

    def _start(self, layout: Layout) -> Start:
        folder = self.run.path / "torture"
        return Start(self._size(), self.damage.newest(), layout.name, folder / f"fetched-{self.jobs}", self._log())

    def _size(self) -> int:
        return self.run.metrics.stat().st_size if self.run.metrics.exists() else 0

    def _log(self) -> Path:
        return self.run.path / "torture" / f"job-{self.jobs}.log"

    def _job(self, plan: Plan) -> int:
        """Run one job through its faults; its exit code."""
        start = self._start(plan.layout)
        start.fetched.mkdir(parents=True)
        self.told.starts.append(start)
        settings = [text for setting in layout_settings(plan.layout) for text in ("--set", setting)]
        arguments = ["train", str(self.run.path), "--json", "--nproc", str(plan.layout.world), *settings]
        inflicting = Inflicting(plan, self.run, start.log.with_suffix(".marks"), self.room)
        faults = {"nan": self.subject.nan, "fetched": str(start.fetched), "points": inflicting.points()}
        job = Job(arguments, start.log, faults)
        try:
            self._watch(job, plan, inflicting)
        finally:
            if job.code() is None:
                job.kill_all()
            code = job.end()
            empty(self.run.checkpoints)
        if self.schedule is not None:
            for act in inflicting.missed():
                self.schedule.give_back(act)
        self._judge(code, inflicting)
        return code

    def _watch(self, job: Job, plan: Plan, inflicting: Inflicting) -> None:
        """Until the job ends: inflict what is planned, and note each new start of the ranks."""
        present: set[int] = set()
        size, moved = -1, time.monotonic()
        while job.code() is None:
            now = set(job.ranks())
            if now and present and present.isdisjoint(now):
                self.told.starts.append(self._start(plan.layout))
                inflicting.started()
                present = set()
            present |= now
            for act, line in inflicting.look(job, over=self.over()):
                self._count(act.kind, line)
            found = self._size()
            if found != size:
                size, moved = found, time.monotonic()
            elif time.monotonic() - moved > _HANG:
                self.told.problems.append(f"no sign of life for {_HANG:.0f} s, see {self._log()}")
                return
            time.sleep(_POLL)
        job.end()
        for act, line in inflicting.look(None, over=True):
            self._count(act.kind, line)

    def _judge(self, code: int, inflicting: Inflicting) -> None:
        """Whether it ended as it must after what was done to it."""
        log = self._log().read_text(errors="replace")
        if inflicting.in_order and code == EXIT_INTERRUPTED:
            newest, last = self.damage.newest(), self.told.segments()[-1].steps
            if last and newest != last[-1].number:
                self.told.problems.append(
                    f"{TERM} in step {last[-1].number}, and the newest checkpoint is of step {newest}"
                )
        full = inflicting.disk_filled() and code == EXIT_USER and "can't be written" in log
        # By the signal itself, where the interpreter was only just being started.
        stopped = inflicting.termed and code in (EXIT_INTERRUPTED, -signal.SIGTERM)
        killed = inflicting.agent_killed() and code == -signal.SIGKILL
        tail = " | ".join(log.strip().splitlines()[-3:])
        # A rank was lost while the others saved: that is no orderly stop, and there is no new start after it.
        lost = inflicting.termed and not inflicting.in_order and code == EXIT_FAULT and "killed by SIGKILL" in tail
        if code and not stopped and not killed and not full and not lost:
            self.told.problems.append(f"a job ended with exit code {code} ({self._log()}): {tail}")

    def _silent(self, step: int, number: int, parts: list[Segment]) -> list[str]:
        """What is wrong with how a damaged checkpoint was met by the starts from this number on."""
        after = parts[number:]
        begun = next((place for place, part in enumerate(after) if part.begun), None)
        if begun is None:
            return []
        logs = dict.fromkeys(part.start.log for part in after[: begun + 1])
        said = any(f"step-{step:08d} is damaged and not used" in log.read_text(errors="replace") for log in logs)
        aside = (self.run.checkpoints / f"damaged-step-{step:08d}").exists()
        return [
            f"the damaged checkpoint of step {step} was not {what}"
            for what, done in (("reported", said), ("set aside", aside))
            if not done
        ]
