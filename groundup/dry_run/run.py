"""The dry run: one training step of a recipe's real model in its real layout, as a chosen rank of many, under torch's
fake process group and on fake tensors. Nothing is computed or sent; memory and collectives are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

from groundup.dry_run.observe import Seen, make_moments, observed_step
from groundup.dry_run.stand_ins import ShapedTable, ShapedText, stand_ins
from groundup.errors import UserError
from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Layout
from groundup.recipe.pipeline_checks import batch_key
from groundup.recipe.portions import microbatches, rows_of_microbatch, samples_of_rank
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.train.state import TrainState

CPU = torch.device("cpu")
Widths = tuple[int, int]  # of a table: features and classes


def dry_run(recipe: Recipe, layout: Layout, rank: int, widths: Widths | None = None) -> tuple[Seen, int]:
    """A step as one rank, and the micro-batches that were traced for it. torch.distributed must not be in use.

    Micro-batches are alike once the pipeline is full. Of a step with many, few are traced, and then one round more;
    what that round adds stands for each of the rest. Raises UserError for a recipe that offloads.
    """
    if recipe.parallel.offload:
        raise UserError(
            "a dry run does not tell the host's memory from the GPU's",
            where="parallel.offload",
            advice="Run it with --set parallel.offload=false: of its memory, weights, gradients and optimizer are then "
            "the host's, and activations the GPU's",
        )
    count, samples = microbatches(recipe, layout), samples_of_rank(recipe, layout)
    few, unit = _enough(recipe, layout)
    alike = samples % count == 0 and (layout.pipeline > 1 or samples % recipe.train.micro_batch == 0)
    if not alike or count <= 2 * few + unit or (count - few) % unit:
        return traced(recipe, layout, rank, widths), count
    less = traced(_shortened(recipe, layout, few), layout, rank, widths, samples)
    more = traced(_shortened(recipe, layout, few + unit), layout, rank, widths, samples)
    return more.stretched(less, (count - few - unit) // unit, memory=layout.pipeline > 1), 2 * few + unit


def _enough(recipe: Recipe, layout: Layout) -> tuple[int, int]:
    """How many micro-batches fill the pipeline, and how many more make a round of its schedule."""
    if layout.pipeline == 1:
        # Copies of a whole model reduce their gradients with the last micro-batch only: first and last differ.
        return (2 if layout.used == ("replicate",) else 1), 1
    if recipe.parallel.schedule in ("gpipe", "1f1b"):
        return layout.pipeline + 1, 1
    return 2 * layout.pipeline, layout.pipeline


def _shortened(recipe: Recipe, layout: Layout, count: int) -> Recipe:
    """The recipe with so many micro-batches per step, each as large as before."""
    (_, key), unit = batch_key(recipe)
    samples = count * rows_of_microbatch(recipe, layout) * layout.data
    changes: dict[str, Any] = {"train": recipe.train.model_copy(update={str(key): samples * unit})}
    if recipe.parallel.microbatches is not None:
        changes["parallel"] = recipe.parallel.model_copy(update={"microbatches": count})
    return recipe.model_copy(update=changes)


def traced(recipe: Recipe, layout: Layout, rank: int, widths: Widths | None = None, samples: int | None = None) -> Seen:
    """A whole step as one rank of a layout, with every micro-batch. Layers run eagerly. samples: how many the host
    holds for a step; default: as many as it takes."""
    gpu = recipe.train.device != "cpu"
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
    fake = FakeTensorMode(allow_non_fake_inputs=True)

    def materialise(model: Any, seed: int, device: torch.device) -> None:
        with fake:
            model.to_empty(device=device)
            model.reset_buffers(device)

    with ExitStack() as stack:
        stack.enter_context(_fake_world(rank, layout.world))
        stack.enter_context(stand_ins(materialise, gpu))
        with fake:
            # A rank short of samples takes one more than it needs, and drops it (ParallelModel.share).
            task = _task(recipe, widths, (samples or samples_of_rank(recipe, layout)) + 1)
        # Models are cut without memory first, and their meshes are made of real tensors.
        model = build_parallel(task, recipe, layout, CPU)
        stack.enter_context(fake)
        optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
        model.train()
        state = TrainState(model, optimizers, gradient_scaler("fp32", CPU))
        make_moments(state)
        return observed_step(state, task, recipe, CPU, task.host_tensors() if gpu else ())


def _task(recipe: Recipe, widths: Widths | None, rows: int) -> Any:
    if isinstance(recipe, TableRecipe):
        assert widths is not None
        return ShapedTable(recipe, *widths, rows)
    assert isinstance(recipe, LanguageRecipe)
    return ShapedText(recipe, rows)


@contextmanager
def _fake_world(rank: int, world: int) -> Iterator[None]:
    if world == 1:
        yield
        return
    dist.init_process_group("fake", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
        # A mesh is taken for any of the same ranks, whoever looks at it; as another rank it has other groups.
        _clear_sharding_prop_cache()
