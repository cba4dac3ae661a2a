"""The loop. What surrounds it hangs on `after_step` of the hooks in `hooks.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from groundup.optim.gradients import clip_, global_norm, gradients
from groundup.optim.optimizers import set_lr
from groundup.optim.precision import autocast
from groundup.recipe.quantities import Pace
from groundup.recipe.sections import Recipe
from groundup.tasks.task import Task
from groundup.train.signals import StopRequest
from groundup.train.state import TrainState


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device; reading it waits for the device, so only log points do."""

    loss: Tensor  # fp32 scalar: cross-entropy per counted token of the global batch
    grad_norm: Tensor  # fp32 scalar, before clipping
    lr: float


class Schedule(Protocol):
    def lr(self, samples: int) -> float:
        """Learning rate of the step that begins when `samples` samples are consumed."""


class Hook(Protocol):
    def after_step(self, state: TrainState, result: StepResult) -> None: ...


def train_step(
    state: TrainState, stop: int, task: Task, recipe: Recipe, schedule: Schedule, device: torch.device
) -> StepResult:
    """One optimizer step over samples [state.samples, stop) of the stream."""
    batch, micro = task.batch(state.samples, stop), recipe.train.micro_batch
    counted = batch.counted
    shown = torch.zeros((), device=device)
    for start in range(0, len(batch), micro):
        part = batch.rows(start, start + micro).to(device)
        with autocast(recipe.optim.precision, device):
            loss, cross_entropy = task.loss(state.model, part)
        state.scaler.scale(loss / counted).backward()
        shown += cross_entropy / counted
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    grads = gradients(state.model)
    norm = global_norm(grads)
    if recipe.optim.clip_norm:
        clip_(grads, norm, recipe.optim.clip_norm)
    lr = schedule.lr(state.samples)
    set_lr(state.optimizers, lr)
    for optimizer in state.optimizers:
        state.scaler.step(optimizer)
        optimizer.zero_grad()
    state.scaler.update()
    task.after_step(state.model)
    return StepResult(shown, norm, lr)


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
    state.model.train()
    while state.step < total_steps and not stop:
        end = pace.step_end(state.samples)
        result = train_step(state, end, task, recipe, schedule, device)
        state.step, state.samples = state.step + 1, end
        for hook in hooks:
            hook.after_step(state, result)
