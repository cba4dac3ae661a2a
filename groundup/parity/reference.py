"""The single process's numbers, step by step: what every layout is held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.parallel.model import SAMPLES as SAMPLE_DIMS
from groundup.parallel.model import ParallelModel
from groundup.parity.case import SAMPLES, Case, variant
from groundup.parity.tasks import MadeUpTable, MadeUpText, made_up
from groundup.recipe.layout import Layout
from groundup.recipe.portions import microbatches, rows_of_microbatch
from groundup.recipe.sections import Recipe
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

STEPS, FREE_STEPS = 5, 20
CPU = torch.device("cpu")

Key = tuple[str, str]  # model, optimizer


def steps_needed(cases: Iterable[Case]) -> dict[Key, int]:
    """The references of the cases, and how many steps each must have."""
    steps: dict[Key, int] = {}
    for case in cases:
        key = (case.model, case.optimizer)
        steps[key] = max(steps.get(key, STEPS), FREE_STEPS if case.free else STEPS)
    return steps


def fresh_state(recipe: Recipe, layout: Layout) -> TrainState:
    """A training at its beginning, in a layout of the processes there are."""
    model = build_parallel(made_up(recipe), recipe, layout, CPU)
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    model.train()
    return TrainState(model, optimizers, gradient_scaler("fp32", CPU))


def minimised_loss(model: ParallelModel, task: MadeUpText | MadeUpTable, recipe: Recipe, start: int) -> float:
    """What is minimised over the samples of a step, balancing losses included, with dropout off: forward only and by
    evaluation's way through the model, so apart from the loss that training displays."""
    rows = None
    if model.pipeline is not None:
        rows = microbatches(recipe, model.layout) * rows_of_microbatch(recipe, model.layout)
    batch = model.share(task.batch, start, start + SAMPLES, rows)
    counted = model.sum_(torch.tensor(batch.counted), *SAMPLE_DIMS)
    cross_entropy, rest = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

    def add(module: nn.Module, output: Any, part: Any) -> None:
        loss, shown = task.loss(module, output, part)  # type: ignore[arg-type]
        cross_entropy.add_(shown)
        rest.add_(loss - shown)

    was_training = model.train(False)
    model.score(task.arguments(batch), batch, add)  # type: ignore[arg-type]
    model.train(was_training)
    # Tensor ranks know the whole cross-entropy, but of a balancing loss the part of their own tokens.
    model.sum_(rest, "tensor")
    return float(model.sum_(cross_entropy + rest, "pipeline", "replicate", "shard", "context") / counted)


@dataclass(frozen=True)
class Reference:
    """`folder` holds, as safetensors, state-N (weights and optimizer state before step N, and after step N - 1),
    gradients-N, and the losses of a longer run."""

    folder: Path

    def state(self, step: int) -> dict[str, Tensor]:
        return load_file(self.folder / f"state-{step}.safetensors")

    def gradients(self, step: int) -> dict[str, Tensor]:
        return load_file(self.folder / f"gradients-{step}.safetensors")

    def losses(self) -> dict[str, list[float]]:
        """displayed and norm, of as many steps as were trained; minimised, of those that are compared in all."""
        return {name: t.tolist() for name, t in load_file(self.folder / "losses.safetensors").items()}


def make_references(recipe: Recipe, steps: dict[Key, int], root: Path, compared: int = STEPS) -> None:
    """What the processes of a pool make together: each those references whose turn it is, of so many steps, the first
    of them with all that is compared."""
    for key in list(steps)[dist.get_rank() :: dist.get_world_size()]:
        make_reference(recipe, key, steps[key], root, compared)


def reference_of(key: Key, root: Path) -> Reference:
    return Reference(root / "-".join(key))


def make_reference(recipe: Recipe, key: Key, steps: int, root: Path, compared: int) -> Reference:
    """Train in this process alone and write down everything."""
    own, reference = variant(recipe, *key), reference_of(key, root)
    task, state = made_up(own), fresh_state(own, Layout())
    reference.folder.mkdir(parents=True)
    found: dict[str, list[float]] = {"displayed": [], "norm": [], "minimised": []}
    for step in range(steps):
        end = state.samples + SAMPLES
        if step < compared:
            _write(reference.folder / f"state-{step}.safetensors", state.tensors())
            found["minimised"].append(minimised_loss(state.model, task, own, state.samples))
        loss, norm = compute_gradients(state, end, task, own, CPU)
        if step < compared:
            gradients = {n: p.grad for n, p in state.model.named_parameters() if p.grad is not None}
            _write(reference.folder / f"gradients-{step}.safetensors", gradients)
        update(state, norm, own, own.optim.lr, task)
        found["displayed"].append(float(loss))
        found["norm"].append(float(norm))
        state.samples = end
        if step == compared - 1:
            _write(reference.folder / f"state-{compared}.safetensors", state.tensors())
    losses = {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}
    _write(reference.folder / "losses.safetensors", losses)
    return reference


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
