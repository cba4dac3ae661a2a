"""The loop. What surrounds it hangs on the hooks in `hooks.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from groundup import heartbeat
from groundup.recipe.quantities import Pace
from groundup.recipe.sections import Recipe
from groundup.tasks.task import Task
from groundup.train.guard import Guard
from groundup.train.signals import StopRequest
from groundup.train.state import TrainState
from groundup.train.step import StepResult, compute_gradients, update


class Schedule(Protocol):
    def lr(self, samples: int) -> float:
        """Learning rate of the step that begins when `samples` samples are consumed."""


class Position(Protocol):
    """Where in the stream of samples a training is, and the samples [start, stop) left out of it, in order."""

    samples: int
    dropped: list[tuple[int, int]]


class Hook(Protocol):
    def due(self, state: TrainState) -> bool:
        """Whether there is something to do after the step that led to this state."""

    def after_step(self, state: TrainState, result: StepResult | None) -> None:
        """Called where it is due, and only after steps that stand. None: the step's samples were dropped."""


def train_step(
    state: TrainState, stop: int, task: Task, recipe: Recipe, schedule: Schedule, device: torch.device
) -> StepResult:
    """One optimizer step over samples [state.samples, stop) of the stream; without effect where it is judged bad."""
    loss, norm = compute_gradients(state, stop, task, recipe, device)
    lr = schedule.lr(state.samples)
    skip = None if state.judge is None else state.judge.judge(loss, norm, state.step, state.samples, stop)
    update(state, norm, recipe, lr, task, skip)
    return StepResult(loss, norm, lr)


def next_end(state: Position, pace: Pace, total_samples: int) -> tuple[int, bool]:
    """Where the step that begins now ends, and whether its samples are dropped."""
    end = min(pace.step_end(state.samples), total_samples)
    for start, stop in state.dropped:
        if start <= state.samples < stop:
            return min(end, stop), True
        if state.samples < start < end:
            return start, False
    return end, False


def run_loop(
    state: TrainState,
    task: Task,
    recipe: Recipe,
    schedule: Schedule,
    device: torch.device,
    pace: Pace,
    total_samples: int,
    hooks: Sequence[Hook],
    guard: Guard,
    stop: StopRequest,
) -> None:
    """Steps up to `total_samples` samples, or until a signal asks to stop. Raises BadStep."""
    for chunk in state.model.chunks:
        chunk.train()
    while state.samples < total_samples and not state.model.any_before(bool(stop)):
        heartbeat.beat()
        end, dropped = next_end(state, pace, total_samples)
        result = None if dropped else train_step(state, end, task, recipe, schedule, device)
        start, state.step, state.samples = state.samples, state.step + 1, end
        due = [hook for hook in hooks if hook.due(state)]
        if not guard.after_step(state, wanted=dropped or bool(due)):
            continue
        if dropped:
            guard.metrics.write("dropped", state.step, samples=[start, end])
        for hook in due:
            hook.after_step(state, result)
        heartbeat.step_done(state.step)
    guard.after_step(state, wanted=True)
    state.model.settle()
