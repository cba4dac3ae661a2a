"""A pool of processes that stays up while many layouts pass through it: starting one costs seconds, a layout does not.

For each case the processes it needs form a torch.distributed world of their own, over a store of the pool's."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

Work = Callable[..., Any]
TIMEOUT = timedelta(seconds=120)


def _serve(rank: int, port: int, pipe: Connection) -> None:
    """What a process of the pool does: (number, world, work, arguments) in, (rank, result or traceback, ok) out."""
    torch.set_num_threads(1)
    while True:
        number, world, work, arguments = pipe.recv()
        if work is None:
            return
        try:
            store = TCPStore("127.0.0.1", port, is_master=False, timeout=TIMEOUT)
            dist.init_process_group(
                "gloo", store=PrefixStore(str(number), store), rank=rank, world_size=world, timeout=TIMEOUT
            )
            result, good = work(*arguments), True
        except BaseException:
            result, good = traceback.format_exc(), False
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        pipe.send((rank, result, good))
        if not good:
            return  # others may be stuck in a collective with it


class WorkFailed(Exception):
    """A process of the pool failed; the first one's traceback."""


class Pool:
    """Starts processes as they are needed, at most `size`; after a failure they are started anew."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._number = 0
        self._workers: list[tuple[Any, Connection]] = []
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def run(self, world: int, work: Work, *arguments: Any) -> list[Any]:
        """`work(*arguments)` in `world` processes of one torch.distributed world; their results by rank.

        Raises WorkFailed with the first failure."""
        assert world <= self.size
        context = multiprocessing.get_context("spawn")
        while len(self._workers) < world:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(len(self._workers), self._store.port, there), daemon=True)
            process.start()
            there.close()
            self._workers.append((process, here))
        self._number += 1
        for _, pipe in self._workers[:world]:
            pipe.send((self._number, world, work, arguments))
        results: list[Any] = [None] * world
        left = {pipe: rank for rank, (_, pipe) in enumerate(self._workers[:world])}
        while left:
            for ready in wait(list(left)):
                pipe = cast(Connection, ready)
                try:
                    rank, result, good = pipe.recv()
                except EOFError:
                    rank, result, good = left[pipe], f"process {left[pipe]} died", False
                if not good:
                    self.close()
                    raise WorkFailed(result)
                results[rank] = result
                del left[pipe]
        return results

    def close(self) -> None:
        for process, _ in self._workers:
            process.kill()
            process.join()
        self._workers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
