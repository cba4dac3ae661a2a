"""What processes do in tests of saving: states of a small model with experts, written and read in any layout."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from groundup import heartbeat
from groundup.train import checkpoint
from groundup.train.loop import train_step
from groundup.train.manifest import Checkpoints
from groundup.train.saver import Saver
from groundup.train.state import TrainState
from groundup.train.storage import open_storage
from tests.guard_work import BATCH, CPU, FixedRate, state_of


def train_and_save(place: Path, settings: tuple[str, ...]) -> list[float]:
    """A step, and a checkpoint of it as step 1; what _train_on finds without a resume."""
    state, task, recipe = state_of(settings)
    train_step(state, BATCH, task, recipe, FixedRate(), CPU)
    state.step, state.samples = 1, BATCH
    checkpoint.save(Checkpoints(open_storage(place)), 1, state.tensors(), state.manifest_facts(), 1, nonce="one")
    return _train_on(state, task, recipe)


def load_and_save(place: Path, other: Path, settings: tuple[str, ...]) -> tuple[int, list[float]]:
    """Take up the checkpoint, write it somewhere else; samples consumed, and what _train_on finds."""
    state, task, recipe = state_of(settings)
    group = checkpoint.patient_group()
    found = checkpoint.take_up(Checkpoints(open_storage(place)), group)
    assert found is not None
    state.load(Checkpoints(open_storage(place)), *found, group)
    samples, facts = state.samples, state.manifest_facts()
    checkpoint.save(Checkpoints(open_storage(other)), 1, state.tensors(), facts, 1, group=group, nonce="two")
    return samples, _train_on(state, task, recipe)


def _train_on(state: TrainState, task: Any, recipe: Any) -> list[float]:
    """Loss and norm of the next step, and the loss of the one after: its weights are what the first made of the
    moments. Its norm has drifted too far from other layouts' for a tolerance of parity."""
    found: list[float] = []
    for _ in range(2):
        result = train_step(state, state.samples + BATCH, task, recipe, FixedRate(), CPU)
        state.step, state.samples = state.step + 1, state.samples + BATCH
        found += [float(result.loss), float(result.grad_norm)]
    return found[:3]


def staged_and_written(place: Path, settings: tuple[str, ...]) -> list[tuple[int, int]]:
    """Of three saves in the background, the first before any step: the bytes of the copy in host memory, and those of
    the file that this rank wrote. The third is saved once more, as step 9, where torch decides who writes."""
    state, task, recipe = state_of(settings)
    checkpoints, group = Checkpoints(open_storage(place)), checkpoint.patient_group()
    saver, found, addresses = Saver(checkpoints, 9, lambda: None, group), list[tuple[int, int]](), list[set[int]]()
    for step in range(3):
        if step:
            train_step(state, state.samples + BATCH, task, recipe, FixedRate(), CPU)
        state.step, state.samples = step, step * BATCH
        saver.start(step, state.tensors(), state.manifest_facts(), background=True)
        done = saver.finish()
        assert done is not None
        assert done.error is None, done.error
        file = place / checkpoints.data(step) / f"rank-{dist.get_rank()}.bin"
        staged = sum(buffer.nbytes for buffer in saver.buffers.values())
        found.append((staged, file.stat().st_size if file.exists() else 0))
        addresses.append({buffer.data_ptr() for buffer in saver.buffers.values() if buffer.nbytes})
    assert addresses[1] == addresses[2], "buffers are made once"
    checkpoint.save(checkpoints, 9, state.tensors(), state.manifest_facts(), 9, group=group, nonce="plain")
    return found


def beats_while_waiting(seconds: float) -> float:
    """Seconds without a sign of life at most, on a rank that waits so long for the last one."""
    group = checkpoint.patient_group()
    heartbeat.start()
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(seconds)
    checkpoint.wait_for_all(group)
    assert heartbeat.last_beat is not None
    silent = time.monotonic() - heartbeat.last_beat
    heartbeat.stop()
    return silent


def missing_on(rank: int, place: Path) -> str:
    """What is said of a checkpoint of which one rank sees no files."""
    checkpoints = Checkpoints(open_storage(place if dist.get_rank() != rank else place / "elsewhere"))
    try:
        checkpoint.verify(checkpoints, 1)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
