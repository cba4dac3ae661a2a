"""The loop. What surrounds it hangs on `after_step` of the hooks in `hooks.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from groundup import heartbeat
from groundup.recipe.quantities import Pace
from groundup.recipe.sections import Recipe
from groundup.tasks.task import Task
from groundup.train.signals import StopRequest
from groundup.train.state import TrainState
from groundup.train.step import StepResult, compute_gradients, update


class Schedule(Protocol):
    def lr(self, samples: int) -> float:
        """Learning rate of the step that begins when `samples` samples are consumed."""


class Hook(Protocol):
    def after_step(self, state: TrainState, result: StepResult) -> None: ...


def train_step(
    state: TrainState, stop: int, task: Task, recipe: Recipe, schedule: Schedule, device: torch.device
) -> StepResult:
    """One optimizer step over samples [state.samples, stop) of the stream."""
    loss, norm = compute_gradients(state, stop, task, recipe, device)
    lr = schedule.lr(state.samples)
    update(state, norm, recipe, lr, task)
    return StepResult(loss, norm, lr)


def run_loop(
    state: TrainState,
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    device: torch.device,
    pace: Pace,
    total_steps: int,
    hooks: Iterable[Hook],
    stop: StopRequest,
) -> None:
    """Steps up to `total_steps`, or until a signal asks to stop."""
    for chunk in state.model.chunks:
        chunk.train()
    while state.step < total_steps and not state.model.any_before(bool(stop)):
        end = pace.step_end(state.samples)
        result = train_step(state, end, task, recipe, schedule, device)
        state.step, state.samples = state.step + 1, end
        for hook in hooks:
            hook.after_step(state, result)
        heartbeat.step_done(state.step)
    state.model.settle()
