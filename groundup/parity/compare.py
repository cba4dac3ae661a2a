"""One layout against the single process, on the processes of the layout.

Step by step: before each step the layout takes the single process's weights and optimizer state, so that rounding
cannot grow; then the loss, the gradient norm, every gradient and every updated weight are compared. Free running: the
layout trains on its own, and its losses are compared.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from groundup.parallel.model import ParallelModel, local
from groundup.parity.case import SAMPLES, Case, recipe_of
from groundup.parity.reference import CPU, FREE_STEPS, STEPS, Reference, fresh_state
from groundup.parity.tasks import made_up
from groundup.recipe.language import LanguageRecipe
from groundup.train.blocks import Block
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

Tensors = dict[str, Tensor]
FIGURES = (
    "loss_difference",
    "displayed_loss_difference",
    "grad_norm_difference",
    "worst_gradient_difference",
    "worst_weight_difference",
)


def take_state(state: TrainState, whole: Tensors) -> None:
    """Give a layout the weights and optimizer state of a single process."""
    state.make_optimizer_state({name: SimpleNamespace(size=t.shape, properties=t) for name, t in whole.items()})
    for name, tensor in state.tensors().items():
        if isinstance(tensor, Block):
            tensor.held.copy_(tensor.part.of(whole[name]))
        else:
            tensor.copy_(whole[name])
    state.model.renew_copies()


def worst_difference(model: ParallelModel, found: Tensors, expected: Tensors) -> tuple[float, str]:
    """The largest difference of any parameter's tensor from the expected, as a share of that one's norm, and its name.
    Every rank's copy counts."""
    names = sorted(expected)
    sums_N2 = torch.zeros(len(names), 2, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        part = model.part(name, parameter)
        mine = part.of(expected[name]).double()
        difference = local(found[name]).double() - mine
        copies = model.copies(name, parameter)
        place = names.index(name)
        sums_N2[place, 0] += difference.square().sum() / copies
        sums_N2[place, 1] += mine.square().sum() / copies
    sums_N2 = model.sum_all(sums_N2).sqrt()
    # What is not held anywhere has no norm here, and then all of it is missing.
    norm_N = torch.tensor([float(expected[name].double().norm()) for name in names])
    missing_N = (sums_N2[:, 1] - norm_N).abs() > 1e-6 * norm_N.clamp(min=1e-12)
    share_N = torch.where(missing_N, 1.0, sums_N2[:, 0] / norm_N.clamp(min=1e-12))
    worst = int(share_N.argmax())
    return float(share_N[worst]), names[worst]


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-12)


def compare(case: Case, recipe: LanguageRecipe, reference: Reference, free: bool = True) -> dict[str, Any]:
    """The row's figures: relative differences, the largest over the steps. All processes of the layout call this."""
    own = recipe_of(case, recipe)
    task, state = made_up(own), fresh_state(own, case.degrees)
    model, expected_losses = state.model, reference.losses
    row: dict[str, Any] = dict.fromkeys(
        ("displayed_loss_difference", "grad_norm_difference", "worst_gradient_difference", "worst_weight_difference"),
        0.0,
    )
    for step in range(STEPS):
        state.samples = step * SAMPLES
        take_state(state, reference.tensors("before", step))
        loss, norm = compute_gradients(state, state.samples + SAMPLES, task, own, CPU)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        worst, where = worst_difference(model, gradients, reference.tensors("gradients", step))
        _keep(row, "displayed_loss_difference", _relative(float(loss), float(expected_losses[step, 0])))
        _keep(row, "grad_norm_difference", _relative(float(norm), float(expected_losses[step, 1])))
        _keep(row, "worst_gradient_difference", worst, where)
        update(state, norm, own, own.optim.lr, task)
        after = reference.tensors("after", step)
        expected = {n.removeprefix("model."): t for n, t in after.items() if n.startswith("model.")}
        buffers = dict(model.named_buffers())
        for name, buffer in buffers.items():
            _keep(row, "worst_weight_difference", _relative_norm(buffer, expected[name]), name)
        held = {n: p.data for n, p in model.named_parameters()}
        weights = {n: t for n, t in expected.items() if not n.endswith("bias_E")}
        worst, where = worst_difference(model, held, weights)
        _keep(row, "worst_weight_difference", worst, where)
    if free:
        row["free_loss_difference"] = _free(case, recipe, expected_losses)
    return row


def _relative_norm(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def _keep(row: dict[str, Any], key: str, value: float, where: str = "") -> None:
    if value > row[key] or value != value:
        row[key] = value
        if where:
            row[f"{key}_in"] = where


def _free(case: Case, recipe: LanguageRecipe, expected_losses: Tensor) -> float:
    """The largest relative difference of the loss over a run without corrections."""
    own = recipe_of(case, recipe)
    task, state = made_up(own), fresh_state(own, case.degrees)
    worst = 0.0
    for step in range(FREE_STEPS):
        end = state.samples + SAMPLES
        loss, norm = compute_gradients(state, end, task, own, CPU)
        update(state, norm, own, own.optim.lr, task)
        state.samples = end
        worst = max(worst, _relative(float(loss), float(expected_losses[step, 0])))
    return worst
