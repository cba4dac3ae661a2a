"""Tasks in a pool of processes of this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from groundup.data.execute.task import Done, Run, Task, perform
from groundup.environment import environment
from groundup.orphans import die_with

# All work here is single-threaded: there are as many processes as there are cores for them.
_THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}


def _begin(variables: Mapping[str, str], ancestor: int) -> None:
    # With the fork server, which ends with the process that wants the pool.
    die_with(os.getppid())
    os.kill(ancestor, 0)  # raises where that has ended before
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    os.environ.clear()
    os.environ.update(variables)
    import pyarrow as pa

    pa.set_cpu_count(1)


@contextmanager
def pool(root: Path, workers: int) -> Iterator[Run]:
    """Processes that stay up over all stages. Raises RuntimeError where one of them is killed."""
    # Forks of a process with nothing but Python and what it has imported, which it goes on with while this one finds
    # out what is to be done: this one may have threads of native libraries, which would be missing in its own forks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["groundup.data.execute.fork_server"])
    with environment(_THREADS):
        here = dict(os.environ)
        multiprocessing.forkserver.ensure_running()
    others = set(multiprocessing.active_children())
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(here, os.getpid()))

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
