"""Tasks in a pool of processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from groundup.data.execute.task import Done, Run, Task, perform
from groundup.orphans import die_with

# All work here is single-threaded: there are as many processes as there are cores for them.
_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    die_with(parent)
    for name in _THREADS:
        os.environ[name] = "1" if name != "TOKENIZERS_PARALLELISM" else "false"
    import pyarrow as pa

    pa.set_cpu_count(1)


def _load() -> None:
    """Import what the first tasks need, while the parent finds out what they are."""
    import groundup.data.stages.filter
    import groundup.data.stages.read  # noqa: F401


@contextmanager
def pool(root: Path, workers: int) -> Iterator[Run]:
    """Processes that stay up over all stages. Raises RuntimeError where one of them is killed."""
    # Spawned, so that this process is their parent, with which they end: those of a fork server are the server's.
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),))

    others = set(multiprocessing.active_children())
    for _ in range(workers):
        processes.submit(_load)

    def run(tasks: Sequence[Task]) -> Iterator[Done]:
        waiting: list[Future[Done]] = [processes.submit(perform, task, root) for task in tasks]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a process of the data step was killed, perhaps for want of memory; lower data.memory or "
                "data.workers. What was finished is kept: the same command goes on from there"
            ) from None

    try:
        yield run
    finally:
        # Idle by now, or wanted no more; an interpreter takes half a second to leave by itself.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        processes.shutdown(wait=False, cancel_futures=True)
