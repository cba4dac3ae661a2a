"""What processes do in tests of saving: states of a small model with experts, written and read in any layout."""

from __future__ import annotations

import time
from pathlib import Path

import torch.distributed as dist

from groundup import heartbeat
from groundup.train import checkpoint
from groundup.train.loop import train_step
from groundup.train.manifest import Checkpoints
from groundup.train.storage import open_storage
from tests.guard_work import BATCH, CPU, FixedRate, state_of


def train_and_save(place: Path, settings: tuple[str, ...]) -> None:
    """A step, and a checkpoint of it as step 1."""
    state, task, recipe = state_of(settings)
    train_step(state, BATCH, task, recipe, FixedRate(), CPU)
    state.step, state.samples = 1, BATCH
    checkpoint.save(Checkpoints(open_storage(place)), 1, state.tensors(), state.manifest_facts(), 1, nonce="one")


def load_and_save(place: Path, other: Path, settings: tuple[str, ...]) -> tuple[int, list[float]]:
    """Take up the checkpoint, write it somewhere else; samples consumed, and loss and norm of a step from there."""
    state, task, recipe = state_of(settings)
    group = checkpoint.patient_group()
    found = checkpoint.take_up(Checkpoints(open_storage(place)), group)
    assert found is not None
    state.load(Checkpoints(open_storage(place)), *found, group)
    facts = state.manifest_facts()
    checkpoint.save(Checkpoints(open_storage(other)), 1, state.tensors(), facts, 1, group=group, nonce="two")
    result = train_step(state, state.samples + BATCH, task, recipe, FixedRate(), CPU)
    return state.samples, [float(result.loss), float(result.grad_norm)]


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
