"""A pool of processes that stays up while many layouts pass through it: starting one costs seconds, a layout does not.

For each case the processes it needs form a torch.distributed world of their own, over a store of the pool's."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

Work = Callable[..., Any]
HANGING = 120.0  # seconds in a collective after which a process gives up


def _serve(rank: int, port: int, hanging: float, pipe: Connection) -> None:
    """What a process of the pool does: (number, world, work, arguments) in, (result or traceback, good) out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool ends it
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    gc.freeze()  # what imports made is not looked at again after each case
    warnings.simplefilter("ignore")
    # A failure is told by its traceback; torch would print the whole schedule of every process before it.
    logging.getLogger("torch.distributed.pipelining").setLevel(logging.CRITICAL)
    timeout = timedelta(seconds=hanging)
    while True:
        try:
            number, world, work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            store = TCPStore("127.0.0.1", port, is_master=False, timeout=timeout)
            dist.init_process_group(
                "gloo", store=PrefixStore(str(number), store), rank=rank, world_size=world, timeout=timeout
            )
            result = work(*arguments)
        except BaseException:
            # Told before the group is left, so before others can fail for want of this process.
            with suppress(OSError):  # the pool may have ended already, for another's failure
                pipe.send((traceback.format_exc(), False))
            return
        dist.destroy_process_group()
        # Meshes of another world with the same ranks are equal, so what is cached for one would be used for the other.
        _clear_sharding_prop_cache()
        pipe.send((result, True))


class WorkFailed(Exception):
    """A process of the pool failed; the first one's traceback."""


class Pool:
    """Starts processes as they are needed, at most `size`; after a failure they are started anew.

    hanging: seconds in a collective after which a process fails."""

    def __init__(self, size: int, hanging: float = HANGING) -> None:
        self.size, self.hanging = size, hanging
        self._number = 0
        self._workers: list[tuple[Any, Connection]] = []
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        # All imports are made once, in a process whose forks the workers are.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["groundup.parity.compare", __name__])

    def run(self, world: int, work: Work, *arguments: Any) -> list[Any]:
        """`work(*arguments)` in `world` processes of one torch.distributed world; their results by rank.

        Raises WorkFailed with the first failure."""
        assert world <= self.size
        while len(self._workers) < world:
            here, there = self._context.Pipe()
            arguments_there = (len(self._workers), self._store.port, self.hanging, there)
            process = self._context.Process(target=_serve, args=arguments_there, daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))
        self._number += 1
        results: list[Any] = [None] * world
        left = {pipe: rank for rank, (_, pipe) in enumerate(self._workers[:world])}
        for pipe in left:
            with suppress(OSError):  # from one that has died the end of its file is read below
                pipe.send((self._number, world, work, arguments))
        while left:
            for ready in wait(list(left)):
                pipe = cast(Connection, ready)
                rank = left.pop(pipe)
                try:
                    results[rank], good = pipe.recv()
                except (EOFError, OSError):
                    results[rank], good = "the process died", False
                if not good:
                    self.close()
                    raise WorkFailed(f"process {rank}: {results[rank]}")
        return results

    def close(self) -> None:
        for process, pipe in self._workers:
            process.kill()
            process.join()
            pipe.close()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
