"""Saving while training goes on: the loop waits for a copy to host memory, a thread writes it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from groundup import heartbeat
from groundup.errors import UserError
from groundup.parallel.collectives import agreed
from groundup.train.blocks import Block, block
from groundup.train.checkpoint import save
from groundup.train.manifest import Checkpoints
from groundup.train.shares import Shares


@dataclass
class Saved:
    """What became of a save. `stall`: seconds the loop waited; `seconds`: until the checkpoint was complete."""

    step: int
    stall: float
    seconds: float = 0.0
    error: BaseException | None = None


class Saver:
    """Saves into `checkpoints`, one at a time. `check` is called before a checkpoint counts, see checkpoint.save.
    `group`: of many processes their own for this, see checkpoint.patient_group, so that the collectives of a save and
    those of a step don't get in each other's way."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        keep_last: int,
        check: Callable[[], None],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.checkpoints, self.keep_last, self.check, self.group = checkpoints, keep_last, check, group
        self.shares = Shares(group)
        self.buffers: dict[str, Tensor] = {}
        self.thread: threading.Thread | None = None
        self.running: Saved | None = None
        self.portions = 0
        self.waiting = False  # for other processes only

    def start(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], *, background: bool) -> None:
        """Begin to save, once the save before is finished; or do all of it, where not in the background."""
        assert self.running is None
        start = time.perf_counter()
        nonce = agreed(lambda: uuid.uuid4().hex[:8])
        tensors = self.shares.of(tensors)
        if background:
            tensors = self._staged(tensors)
        self.waiting = False
        self.running = running = Saved(step, 0.0)

        def write() -> None:
            try:
                save(
                    self.checkpoints,
                    step,
                    tensors,
                    facts,
                    self.keep_last,
                    group=self.group,
                    nonce=nonce,
                    check=self.check,
                    progress=self._progress,
                    waiting=self._wait,
                )
            except BaseException as error:
                running.error = error
            running.seconds = time.perf_counter() - start

        self.thread = threading.Thread(target=write, name="groundup-checkpoint")
        self.thread.start()
        if not background:
            self._join()
        running.stall = time.perf_counter() - start

    def _staged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies in host memory. The buffers are made once, as long as this rank writes the same."""
        found = {}
        self.buffers = {name: buffer for name, buffer in self.buffers.items() if name in tensors}
        for name, tensor in tensors.items():
            held = tensor.held if isinstance(tensor, Block) else tensor
            buffer = self.buffers.get(name)
            if buffer is None or buffer.shape != held.shape:
                buffer = torch.empty_like(held, device="cpu", pin_memory=held.is_cuda)
                self.buffers[name] = buffer
            buffer.copy_(held, non_blocking=True)
            found[name] = block(buffer, tensor.part) if isinstance(tensor, Block) else buffer
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return found

    def _progress(self) -> None:
        self.portions += 1

    def _wait(self, waiting: bool) -> None:
        self.waiting = waiting

    def poll(self) -> Saved | None:
        """The save that was running, once it is over; None before, and where there was none."""
        if self.thread is not None and self.thread.is_alive():
            return None
        return self.finish()

    def finish(self) -> Saved | None:
        """Wait for the save that is running; what became of it."""
        self._join()
        done, self.running, self.thread = self.running, None, None
        return done

    def _join(self) -> None:
        """As long as bytes are written, or others are waited for, it counts as life."""
        portions = -1
        while self.thread is not None and self.thread.is_alive():
            if self.portions != portions or self.waiting:
                portions = self.portions
                heartbeat.beat()
            self.thread.join(1.0)


def reason(error: BaseException) -> BaseException:
    """Why a save failed: of many processes that did, the first's reason."""
    if isinstance(error, CheckpointException):
        return next(iter(error.failures.values()))[0]
    return error


def as_user_error(error: OSError, place: str) -> UserError:
    """A storage that does not take a checkpoint, in words."""
    return UserError(
        f"the checkpoint can't be written: {error.strerror or error}",
        where=place,
        advice="The checkpoints before it are whole. Make room or mend the storage; the same command goes on from them",
    )
