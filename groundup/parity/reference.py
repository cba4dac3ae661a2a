"""The single process's numbers, step by step: what every layout is held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.parallel.layout import Layout
from groundup.parity.case import SAMPLES, variant
from groundup.parity.tasks import made_up
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.sections import Recipe
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

STEPS, FREE_STEPS = 5, 20
CPU = torch.device("cpu")


def fresh_state(recipe: Recipe, layout: Layout) -> TrainState:
    """A training at its beginning, in a layout of the processes there are."""
    model = build_parallel(made_up(recipe), recipe, layout, CPU)
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    model.train()
    return TrainState(model, optimizers, gradient_scaler("fp32", CPU))


@dataclass(frozen=True)
class Reference:
    """`folder` holds before-N, gradients-N and after-N of each step as safetensors, and the losses of a longer run."""

    folder: Path

    def tensors(self, kind: str, step: int) -> dict[str, Tensor]:
        return load_file(self.folder / f"{kind}-{step}.safetensors")

    @property
    def losses(self) -> Tensor:
        """[FREE_STEPS, 2]: loss and gradient norm of each step."""
        return load_file(self.folder / "losses.safetensors")["losses"]


def make_reference(recipe: LanguageRecipe, model: str, optimizer: str, folder: Path) -> Reference:
    """Train in this process and write down everything."""
    recipe_of_model = variant(recipe, model, optimizer)
    task, state = made_up(recipe_of_model), fresh_state(recipe_of_model, Layout())
    folder.mkdir(parents=True)
    losses = []
    for step in range(FREE_STEPS):
        end = state.samples + SAMPLES
        if step < STEPS:
            _write(folder / f"before-{step}.safetensors", state.tensors())
        loss, norm = compute_gradients(state, end, task, recipe_of_model, CPU)
        if step < STEPS:
            gradients = {n: p.grad for n, p in state.model.named_parameters() if p.grad is not None}
            _write(folder / f"gradients-{step}.safetensors", gradients)
        update(state, norm, recipe_of_model, recipe_of_model.optim.lr, task)
        if step < STEPS:
            _write(folder / f"after-{step}.safetensors", state.tensors())
        losses.append(torch.stack((loss, norm)))
        state.samples = end
    _write(folder / "losses.safetensors", {"losses": torch.stack(losses)})
    return Reference(folder)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
