"""Which executor runs the tasks of a stage. All run the same function, and the files come out the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from groundup.data.execute.task import Done, Run, Task, perform

EXECUTORS = ("auto", "process", "pool", "ray", "slurm")
SMALL = 64 << 20  # bytes of input below which starting a pool takes longer than it saves


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def choose(kind: str, workers: int, size: int) -> str:
    """What `auto` stands for. `size`: bytes of all input."""
    if kind != "auto":
        return kind
    return "pool" if workers > 1 and size > SMALL else "process"


@contextmanager
def executor(kind: str, root: Path, workers: int) -> Iterator[Run]:
    """A function that does tasks and yields each as it is done, in any order."""
    with _open(kind, root, workers) as run:
        yield run


def _open(kind: str, root: Path, workers: int) -> AbstractContextManager[Run]:
    if kind == "pool":
        from groundup.data.execute.pool import pool

        return pool(root, workers)
    if kind == "ray":
        from groundup.data.execute.ray import cluster

        return cluster(root, workers)
    if kind == "slurm":
        from groundup.data.execute.slurm import arrays

        return arrays(root, workers)
    return _here(root)


@contextmanager
def _here(root: Path) -> Iterator[Run]:
    def run(tasks: Sequence[Task]) -> Iterator[Done]:
        for task in tasks:
            yield perform(task, root)

    yield run
