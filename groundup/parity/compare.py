"""One layout against the single process, on the processes of the layout.

Step by step: before each step the layout takes the single process's weights and optimizer state, so that rounding
cannot grow; then the loss, the gradient norm, every gradient and every updated weight are compared. Free running: the
layout trains on its own, and its losses are compared.
"""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from groundup.parallel.model import ParallelModel, local
from groundup.parity.case import SAMPLES, Case, recipe_of
from groundup.parity.reference import CPU, FREE_STEPS, fresh_state, minimised_loss, reference_of
from groundup.parity.tasks import MadeUpTable, MadeUpText, made_up
from groundup.recipe.sections import Recipe
from groundup.train.blocks import Block
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

Tensors = dict[str, Tensor]
BUFFER = ".bias_E"  # end of the name of the only kind of buffer that is trained


class Figures(dict[str, Any]):
    """Relative differences by name, the largest over the steps, each with the tensor it is of under NAME_in."""

    def keep(self, name: str, value: float, where: str = "") -> None:
        # What is no number is the worst of all and stays.
        if name not in self or value > self[name] or value != value:
            self[name] = value
            if where:
                self[f"{name}_in"] = where


def compare(case: Case, recipe: Recipe, references: Path) -> Figures:
    """The row's figures. All processes of the layout call this; each gives what it sees."""
    own = recipe_of(case, recipe)
    task, state = made_up(own), fresh_state(own, case.degrees)
    model, reference = state.model, reference_of((case.model, case.optimizer), references)
    losses, figures, expected = reference.losses(), Figures(), reference.state(0)
    for step in range(len(losses["minimised"])):
        state.samples = step * SAMPLES
        if step:
            _take_state(state, expected)
        minimised = minimised_loss(model, task, own, state.samples)
        if step == 0:
            # After a pass forward, as checkpoints are after a validation: it must leave weights as it found them.
            _keep_weights(figures, "initial_weight_difference", model, expected)
            if case.free:
                figures.keep("free_loss_difference", _run_free(state, task, own, losses["displayed"]))
            _take_state(state, expected)
        loss, norm = compute_gradients(state, state.samples + SAMPLES, task, own, CPU)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        figures.keep("loss_difference", _relative(minimised, losses["minimised"][step]))
        figures.keep("displayed_loss_difference", _relative(float(loss), losses["displayed"][step]))
        figures.keep("grad_norm_difference", _relative(float(norm), losses["norm"][step]))
        figures.keep("worst_gradient_difference", *_worst(model, gradients, reference.gradients(step)))
        update(state, norm, own, own.optim.lr, task)
        expected = reference.state(step + 1)
        _keep_weights(figures, "worst_weight_difference", model, expected)
    del task, state, model
    gc.collect()  # a pool's process sees hundreds of models, whose hooks make cycles
    return figures


def _take_state(state: TrainState, whole: Tensors) -> None:
    """Give a layout the weights and optimizer state of a single process."""
    for optimizer in state.optimizers:
        optimizer.state.clear()
    state.make_optimizer_state({name: SimpleNamespace(size=t.shape, properties=t) for name, t in whole.items()})
    for name, tensor in state.tensors().items():
        if isinstance(tensor, Block):
            tensor.held.copy_(tensor.part.of(whole[name]))
        else:
            tensor.copy_(whole[name])
    state.model.renew_copies()


def _keep_weights(figures: Figures, name: str, model: ParallelModel, state: Tensors) -> None:
    """The worst difference of a weight or buffer from a single process's state."""
    expected = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
    for buffer_name, buffer in model.named_buffers():
        whole = expected[buffer_name]
        figures.keep(name, float((buffer - whole).norm() / whole.norm().clamp(min=1e-12)), buffer_name)
    for first, second in model.second_copies():
        figures.keep(name, float((local(second) - local(first)).norm() / local(first).norm()), "second copy")
    held = {n: p.data for n, p in model.named_parameters()}
    figures.keep(name, *_worst(model, held, {n: t for n, t in expected.items() if not n.endswith(BUFFER)}))


def _worst(model: ParallelModel, found: Tensors, expected: Tensors) -> tuple[float, str]:
    """The largest difference of any parameter's tensor from the expected, as a share of that one's norm, and its name.
    Every rank's copy counts."""
    places = {name: n for n, name in enumerate(sorted(expected))}
    sums_N2 = torch.zeros(len(places), 2, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        mine = model.part(name, parameter).of(expected[name]).double()
        difference = local(found[name]).double() - mine if name in found else mine
        squares_2 = torch.stack((difference.square().sum(), mine.square().sum()))
        sums_N2[places[name]] += squares_2 / model.copies(name, parameter)
    norms_N2 = model.sum_all(sums_N2).sqrt()
    norm_N = torch.stack([expected[name].double().norm() for name in places]).clamp(min=1e-12)
    # What some rank should hold and none does is missing in the second sum.
    missing_N = norms_N2[:, 1] < norm_N * (1 - 1e-6) - 1e-11
    share_N = torch.where(missing_N, 1.0, norms_N2[:, 0] / norm_N)
    worst = int(share_N.argmax())
    return float(share_N[worst]), list(places)[worst]


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-12)


def _run_free(state: TrainState, task: MadeUpText | MadeUpTable, recipe: Recipe, expected: list[float]) -> float:
    """The largest relative difference of the displayed loss over a run from the beginning, without corrections."""
    figures = Figures()
    for step in range(FREE_STEPS):
        state.samples = step * SAMPLES
        loss, norm = compute_gradients(state, state.samples + SAMPLES, task, recipe, CPU)
        update(state, norm, recipe, recipe.optim.lr, task)
        figures.keep("loss", _relative(float(loss), expected[step]))
    state.samples = 0
    return float(figures["loss"])
