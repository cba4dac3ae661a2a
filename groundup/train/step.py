"""One optimizer step in any layout: this rank's share of the batch, gradients, their norm, the update.

The loss is a sum divided by the counted tokens (or rows) of the whole step, and every reduction is a sum: so a step's
numbers are the same however its samples are spread over micro-batches and ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groundup.data.batches.samples import Samples
from groundup.optim.gradients import clip_
from groundup.optim.optimizers import set_lr, step
from groundup.optim.precision import autocast, share_found_infinite, update_scale
from groundup.parallel.model import SAMPLES, local
from groundup.recipe.portions import microbatches, rows_of_microbatch
from groundup.recipe.sections import Recipe
from groundup.tasks.task import Task
from groundup.train.state import TrainState


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device; reading it waits for the device, so only log points do."""

    loss: Tensor  # fp32 scalar: cross-entropy per counted token of the global batch
    grad_norm: Tensor  # fp32 scalar, before clipping
    lr: float


def compute_gradients(
    state: TrainState, stop: int, task: Task, recipe: Recipe, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Gradients of samples [state.samples, stop), into the parameters; loss per counted token, and global norm."""
    model = state.model
    # Stages of a pipeline expect micro-batches of one shape, however short an epoch's last step is.
    rows = None
    if model.pipeline is not None:
        rows = microbatches(recipe, model.layout) * rows_of_microbatch(recipe, model.layout)
    batch = model.share(task.batch, state.samples, stop, rows)
    counted: Any = batch.counted
    if model.mesh is not None:
        counted = model.sum_(torch.tensor(batch.counted, dtype=torch.float32, device=device), *SAMPLES)
    state.scaler.scale(torch.zeros((), device=device))  # makes its scale, also where no loss is computed
    accumulate = _through_pipeline if model.pipeline is not None else _one_by_one
    shown = accumulate(state, batch, counted, task, recipe, device)
    model.sum_(shown, "pipeline", "replicate", "shard", "context")
    model.reduce_gradients()
    for optimizer in state.optimizers:
        state.scaler.unscale_(optimizer)
    share_found_infinite(state.scaler, state.optimizers, model.largest)
    norm = model.gradient_norm(shown)
    return shown, norm


def _one_by_one(
    state: TrainState, batch: Samples, counted: Any, task: Task, recipe: Recipe, device: torch.device
) -> Tensor:
    model, micro = state.model, recipe.train.micro_batch
    module = model.module
    shown = torch.zeros((), device=device)
    for start in range(0, len(batch), micro):
        part = batch.rows(start, start + micro).to(device)
        model.reduce_after_this(start + micro >= len(batch))
        with autocast(recipe.optim.precision, device):
            loss, cross_entropy = task.loss(module, module(**task.arguments(part)), part)
        state.scaler.scale(loss / counted).backward()
        shown += cross_entropy / counted
    return shown


def _through_pipeline(
    state: TrainState, batch: Samples, counted: Any, task: Task, recipe: Recipe, device: torch.device
) -> Tensor:
    model = state.model
    assert model.pipeline is not None
    batch = batch.to(device)
    rows = rows_of_microbatch(recipe, model.layout)
    shown = torch.zeros((), device=device)

    def loss_of(output: Any, number: int) -> Tensor:
        assert model.pipeline is not None
        assert model.pipeline.last is not None
        part = batch.rows(number * rows, (number + 1) * rows)
        with autocast(recipe.optim.precision, device):
            loss, cross_entropy = task.loss(model.pipeline.last.model, model.pipeline.last.output(output), part)
        shown.add_(cross_entropy / counted)
        scaled: Tensor = state.scaler.scale(loss / counted)
        return scaled

    model.pipeline.run(task.arguments(batch), loss_of)
    return shown


def update(state: TrainState, norm: Tensor, recipe: Recipe, lr: float, task: Task, skip: Tensor | None = None) -> None:
    """Clip, step every optimizer, and clear the gradients.

    Where `skip` is 1 (fp32 scalar on the device, the same on all ranks) gradients are cleared and all else stays.
    """
    if skip is not None and recipe.parallel.offload:
        skip = skip.cpu()  # where the optimizer works, which has waited for the gradients already
    if skip is not None and skip.device.type == "cpu" and not skip:
        skip = None  # reading is free there, and a small model's optimizer is faster without
    if recipe.optim.clip_norm:
        grads = [local(p.grad) for _, p in state.model.named_parameters() if p.grad is not None]
        clip_(grads, norm, recipe.optim.clip_norm)
    set_lr(state.optimizers, lr)
    for optimizer in state.optimizers:
        step(optimizer, state.scaler, skip)
        optimizer.zero_grad()
    update_scale(state.scaler, skip)
    state.model.renew_copies()
    for chunk in state.model.chunks:
        task.after_step(chunk, state.model.sum_over_tokens, skip)
