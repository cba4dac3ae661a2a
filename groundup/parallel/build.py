"""Put a model into a layout: pipeline stages first, then tensor, context and expert cuts, activation checkpointing,
compilation, and FSDP; then its memory and its initial values, each rank its own share."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from groundup.models.decoder import Decoder
from groundup.models.init import initialise
from groundup.optim.precision import autocast, product_dtype
from groundup.parallel.activations import checkpoint_activations
from groundup.parallel.cut import Cuts
from groundup.parallel.decoder import cut_decoder
from groundup.parallel.mesh import Mesh
from groundup.parallel.model import ParallelModel, local
from groundup.parallel.perceptron import cut_perceptron
from groundup.parallel.sharding import shard_model
from groundup.parallel.stages import Stage, cut_points, entering_shapes, rank_of_stage, stages_of_rank
from groundup.recipe.layout import Layout
from groundup.recipe.portions import microbatches, rows_of_microbatch
from groundup.recipe.sections import Recipe

if TYPE_CHECKING:
    from groundup.parallel.pipeline import Pipeline


class Task(Protocol):
    """What must be known of a task to build its model."""

    @property
    def units_per_sample(self) -> int: ...

    def skeleton(self) -> Any: ...

    def build(self, device: torch.device) -> Any: ...

    def layers(self, model: Any) -> nn.ModuleList: ...


def build_parallel(task: Task, recipe: Recipe, layout: Layout, device: torch.device) -> ParallelModel:
    """The task's model in the layout, with its initial values. torch.distributed must hold `layout.world` processes;
    a single process needs none."""
    parallel = recipe.parallel
    if layout.world == 1:
        model = task.build(device)
        _prepare(task.layers(model), recipe)
        return ParallelModel([model])
    mesh = Mesh(layout, device)
    whole = task.skeleton()
    tied = isinstance(whole, Decoder) and whole.output is None
    bounds, stages = [], {}
    if layout.pipeline > 1:
        bounds = cut_points(whole, parallel)
        numbers = stages_of_rank(parallel, mesh.index("pipeline"))
        stages = {n: Stage(whole, bounds[n], n, parallel.stages) for n in numbers}
    chunks: list[Any] = [stage.model for stage in stages.values()] or [whole]
    cuts = Cuts()
    for chunk in chunks:
        if isinstance(chunk, Decoder):
            found = cut_decoder(chunk, mesh, ring=parallel.context_attention == "ring")
        else:
            found = cut_perceptron(chunk, mesh)
        cuts.parts |= found.parts
        cuts.dims |= found.dims
        cuts.summed |= found.summed
    dtype = product_dtype(recipe.optim.precision, device)
    roots: list[Any] = list(stages.values()) or [whole]
    for chunk, root in zip(chunks, roots, strict=True):
        _prepare(task.layers(chunk), recipe)
        shard_model(root, task.layers(chunk), mesh, parallel, dtype)
    model = ParallelModel(chunks, roots, layout, mesh, cuts)
    _materialise(model, recipe.seed, device, torch.device("cpu") if parallel.offload else device)
    if stages:
        model.pipeline = _pipeline(task, stages, bounds, recipe, mesh)
        if tied:
            model.tied_ranks = _tied_ranks(recipe, mesh)
    return model


def _prepare(layers: nn.ModuleList, recipe: Recipe) -> None:
    """Activation checkpointing, and compilation of what it makes."""
    checkpoint_activations(layers, recipe.parallel)
    if recipe.train.compile:
        for layer in layers:
            layer.compile()


def evaluation_rows(recipe: Recipe, model: ParallelModel, wanted: int) -> int:
    """Samples that a data rank scores at once: as many as wanted, or as the stages of a pipeline are built for."""
    return (
        wanted
        if model.pipeline is None
        else microbatches(recipe, model.layout) * rows_of_microbatch(recipe, model.layout)
    )


def _pipeline(
    task: Task, stages: dict[int, Stage], bounds: list[tuple[int, int]], recipe: Recipe, mesh: Mesh
) -> Pipeline:
    from groundup.parallel.pipeline import Pipeline  # torch's schedules import its compiler, half a second's work

    layout = mesh.layout
    count, rows = microbatches(recipe, layout), rows_of_microbatch(recipe, layout)
    for stage in stages.values():
        # Not around the whole schedule: its backward passes must run as they do without a pipeline.
        stage.context = partial(autocast, recipe.optim.precision, mesh.device)
        if isinstance(stage.model, Decoder):
            # Zero-bubble schedules differentiate the loss by inputs and weights in turn.
            stage.model.cross_entropy.keep = True
    model = next(iter(stages.values())).model
    block = task.units_per_sample // layout.context // layout.tensor
    return Pipeline(stages, recipe.parallel, mesh, count, entering_shapes(model, bounds, rows, block))


def _tied_ranks(recipe: Recipe, mesh: Mesh) -> list[int]:
    """Global ranks that hold a copy of the tied embedding: those of the first and of the last stage."""
    parallel = recipe.parallel
    along = mesh.ranks("pipeline")
    return sorted({along[rank_of_stage(parallel, 0)], along[rank_of_stage(parallel, parallel.stages - 1)]})


def _materialise(model: ParallelModel, seed: int, device: torch.device, home: torch.device) -> None:
    """home: where the parameters stay; buffers are on the device that computes."""
    for chunk in model.chunks:
        chunk.to_empty(device=home)
        chunk.reset_buffers(device)  # type: ignore[operator]
        named = [(name, parameter) for name, parameter in chunk.named_parameters()]
        parts = {name: model.part(name, parameter) for name, parameter in named}
        initialise(chunk, ((name, local(p.data)) for name, p in named), seed, parts)  # type: ignore[arg-type]
