"""Running stages one after another: progress while they run, and counts and times afterwards."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence

from groundup.console import Bar, say
from groundup.data.execute.executor import Run
from groundup.data.execute.task import Done, Task
from groundup.data.stage import Stage


class Stages:
    """Runs tasks and keeps account of them. `by_name`: the stages, in the order in which they were first asked for."""

    def __init__(self, execute: Run) -> None:
        self.execute = execute
        self.by_name: dict[str, Stage] = {}
        self.tasks: dict[str, set[str]] = {}
        self._peaks: dict[str, int] = {}

    def __getitem__(self, name: str) -> Stage:
        return self.by_name.setdefault(name, Stage(name))

    def run(self, tasks: Sequence[Task], stage: str) -> list[Done]:
        """Do the tasks as a part of a stage; what each made, in their order."""
        self.tasks.setdefault(tasks[0].stage, set()).update(task.name for task in tasks)
        sizes = {task.name: task.size for task in tasks}
        found: dict[str, Done] = {}
        wall = time.perf_counter()
        with Bar(tasks[0].stage, sum(sizes.values()) or len(tasks), "B" if sum(sizes.values()) else "tasks") as bar:
            for done in self.execute(tasks):
                found[done.name] = done
                bar.advance(sizes[done.name] if sum(sizes.values()) else 1, f"{len(found)} of {len(tasks)} tasks")
                self._peaks[done.process] = max(self._peaks.get(done.process, 0), 0 if done.skipped else done.peak)
        made = [done for done in found.values() if not done.skipped]
        if len(made) < len(found):
            say(f"{tasks[0].stage}: {len(found) - len(made)} of {len(found)} tasks were done before")
        account = self[stage]
        account.seconds += time.perf_counter() - wall
        account.cpu_seconds += sum(done.cpu_seconds for done in made)
        return [found[task.name] for task in tasks]

    def peak_memory_mb(self) -> float:
        """Memory of this process and of all that did tasks, each at its highest; pages they share are counted again."""
        here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        own = f"{os.uname().nodename}/{os.getpid()}"
        return round(here + sum(peak for process, peak in self._peaks.items() if process != own) / (1 << 20), 1)


def share_out(stages: Stages, whole: str, part: str, done: Sequence[Done]) -> None:
    """Move what tasks of the stage `whole` say their part `part` took to the stage of that name."""
    made = [task for task in done if not task.skipped]
    cpu = sum(task.parts.get(part, [0.0, 0.0])[1] for task in made)
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
