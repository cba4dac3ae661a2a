"""Running stages one after another: progress while they run, and counts and times afterwards."""

from __future__ import annotations

import heapq
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

from groundup.console import Bar, say
from groundup.data.execute.task import Done, Run, Task, adopt
from groundup.data.stage import Stage


class Stages:
    """Runs tasks, `workers` at once, under the root of all stages, and keeps account of them. What earlier runs did is
    in the account as what it took then. `by_name`: the stages, in the order in which they were first asked for."""

    def __init__(self, execute: Run, root: Path, workers: int) -> None:
        self.execute, self.root, self.workers = execute, root, workers
        self.by_name: dict[str, Stage] = {}
        self.tasks: dict[str, set[str]] = {}
        self._peaks: dict[str, int] = {}

    def __getitem__(self, name: str) -> Stage:
        return self.by_name.setdefault(name, Stage(name))

    def run(self, tasks: Sequence[Task], stage: str) -> list[Done]:
        """Do the tasks as a part of a stage; what each made, in their order."""
        return self.run_together({stage: tasks})[stage]

    def run_together(self, groups: dict[str, Sequence[Task]]) -> dict[str, list[Done]]:
        """Do tasks of several stages at once, none of which needs another; what each made, by stage."""
        tasks = [task for group in groups.values() for task in group]
        for group in groups.values():
            self.tasks.setdefault(group[0].stage, set()).update(task.name for task in group)
            adopt(group, self.root)
        sizes = {(task.stage, task.name): task.size for task in tasks}
        found: dict[tuple[str, str], Done] = {}
        seconds: dict[str, float] = {}  # until the last of each kind was done
        wall = time.perf_counter()
        total = sum(sizes.values())
        with Bar(tasks[0].stage, total or len(tasks), "B" if total else "tasks") as bar:
            for done in self.execute(tasks):
                found[done.stage, done.name] = done
                seconds[done.stage] = time.perf_counter() - wall
                advance = bar.skip if done.skipped else bar.advance
                advance(sizes[done.stage, done.name] if total else 1, f"{len(found)} of {len(tasks)} tasks")
                self._peaks[done.process] = max(self._peaks.get(done.process, 0), 0 if done.skipped else done.peak)
        return {
            stage: self._account(stage, [found[task.stage, task.name] for task in group], seconds[group[0].stage])
            for stage, group in groups.items()
        }

    def _account(self, stage: str, found: list[Done], seconds: float) -> list[Done]:
        before = [done for done in found if done.skipped]
        if before:
            say(f"{found[0].stage}: {len(before)} of {len(found)} tasks were done before")
        account = self[stage]
        account.seconds += seconds + sum(done.seconds for done in before) / self.workers
        account.cpu_seconds += sum(done.cpu_seconds for done in found)
        return found

    def peak_memory_mb(self) -> float:
        """Memory of this process and of as many that did tasks as work at once, those that took most, each at its
        highest; pages they share are counted again."""
        here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        own = f"{os.uname().nodename}/{os.getpid()}"
        others = heapq.nlargest(self.workers, (peak for process, peak in self._peaks.items() if process != own))
        return round(here + sum(others) / (1 << 20), 1)


def share_out(stages: Stages, whole: str, part: str, done: Sequence[Done]) -> None:
    """Move what tasks of the stage `whole` say their part `part` took to the stage of that name."""
    cpu = sum(task.parts.get(part, [0.0, 0.0])[1] for task in done)
    share = cpu / stages[whole].cpu_seconds if stages[whole].cpu_seconds else 0.0
    wall = share * stages[whole].seconds
    stages[whole].cpu_seconds -= cpu
    stages[whole].seconds -= wall
    stages[part].cpu_seconds += cpu
    stages[part].seconds += wall


def table(stages: Sequence[Stage]) -> str:
    """What happened, a line per stage."""
    head = f"{'stage':<16}{'documents':>12}{'MB':>10}{'dropped':>10}{'s':>8}{'CPU s':>8}{'MB/s':>8}"
    lines = [head]
    for stage in stages:
        rate = stage.bytes_in / 1e6 / stage.seconds if stage.seconds > 0.005 else 0.0
        lines.append(
            f"{stage.name:<16}{stage.documents_out:>12,}{stage.bytes_out / 1e6:>10,.1f}"
            f"{stage.documents_in - stage.documents_out:>10,}{stage.seconds:>8.1f}"
            f"{stage.cpu_seconds:>8.1f}{rate:>8,.0f}"
        )
    return "\n".join(lines)
