"""Tasks in a pool of processes of this machine.

One process loads what tasks need, while the command finds out what is to be done; the processes that do them are its
forks. It has no threads of native libraries, as the command may have, which would be missing in its forks.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from groundup.data.execute.task import Done, Run, Task, perform
from groundup.orphans import die_with

# All work here is single-threaded: there are as many processes as there are cores for them.
_THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}
_KILLED = (
    "a process of the data step was killed, perhaps for want of memory; lower data.memory or data.workers. What was "
    "finished is kept: the same command goes on from there"
)


class RaisedThere(Exception):
    """Where in a task an error was raised, as text."""


@contextmanager
def pool(root: Path, workers: int) -> Iterator[Run]:
    """Processes that stay up over all stages. Raises RuntimeError where one of them is killed."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, root, workers, os.getpid()))
    server.start()
    there.close()

    def receive() -> Done | tuple[BaseException, str]:
        try:
            outcome: Done | tuple[BaseException, str] = here.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(_KILLED) from None
        return outcome

    def run(tasks: Sequence[Task]) -> Iterator[Done]:
        with suppress(ConnectionError):  # told by what is received then
            here.send(tasks)
        for _ in tasks:
            outcome = receive()
            if not isinstance(outcome, Done):
                raise outcome[0] from RaisedThere(outcome[1])
            yield outcome

    try:
        yield run
    except BaseException:
        server.kill()  # and with it its forks
        raise
    finally:
        here.close()
        server.join()


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends the pool
    die_with(parent)


def _begin_fork(parent: int) -> None:
    _begin(parent)
    import pyarrow as pa

    pa.set_cpu_count(1)


def _serve(pipe: Connection, root: Path, workers: int, parent: int) -> None:
    """Take tasks and send what became of each, until the pipe is closed."""
    _begin(parent)
    os.environ.update(_THREADS)
    importlib.import_module("groundup.data.all_stages")
    import numpy as np

    from groundup.data.kernels import mix

    mix(np.uint64(1))  # with its first kernel numba loads all that it knows, which takes a third of a second
    context = multiprocessing.get_context("fork")
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_fork, initargs=(os.getpid(),))
    with suppress(EOFError, ConnectionError):
        while True:
            tasks: Sequence[Task] = pipe.recv()
            for future in as_completed([_submitted(processes, task, root) for task in tasks]):
                pipe.send(_outcome(future))
    # Idle by now; an interpreter takes half a second to leave by itself.
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    os._exit(0)


def _submitted(processes: ProcessPoolExecutor, task: Task, root: Path) -> Future[Done]:
    try:
        return processes.submit(perform, task, root)
    except BrokenProcessPool as error:  # by what was submitted before
        future: Future[Done] = Future()
        future.set_exception(error)
        return future


def _outcome(future: Future[Done]) -> Done | tuple[BaseException, str]:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenProcessPool):
        error = RuntimeError(_KILLED)
    return error, "".join(traceback.format_exception(error))
