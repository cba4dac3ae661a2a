"""Faults of parallel code as they happen in practice, each made in a process of a pool and undone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from groundup.models.attention import CoreAttention
from groundup.models.decoder import Decoder
from groundup.models.experts import Router
from groundup.parallel import decoder, model, perceptron, pipeline, ring
from groundup.parallel.collectives import exchange_rows, gather_for_all, gather_for_shares
from groundup.parallel.cut import Cuts
from groundup.parallel.mesh import Mesh
from groundup.parallel.model import ParallelModel, local
from groundup.parity.case import Case
from groundup.parity.compare import Figures, compare
from groundup.recipe.sections import Recipe

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """`shows` tells the rows that must fail, and `figures` which of their figures, whatever else does."""

    make: Callable[[Patch], None]
    shows: Callable[[Case], bool]
    figures: tuple[str, ...]


def compare_mutated(name: str, case: Case, recipe: Recipe, references: Path) -> Figures:
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[name].make(patch)
        return compare(case, recipe, references)


def _doubled_norms(patch: Patch) -> None:
    """Summed over the tensor ranks although each of them has the whole."""
    reduce = ParallelModel.reduce_gradients

    def doubled(self: ParallelModel) -> None:
        reduce(self)
        for name, parameter in self.named_parameters():
            if name.endswith("query_norm.weight") and parameter.grad is not None:
                local(parameter.grad).mul_(2)

    patch.setattr(ParallelModel, "reduce_gradients", doubled)


def _doubled_along_shard(patch: Patch) -> None:
    reduce = ParallelModel.reduce_gradients

    def doubled(self: ParallelModel) -> None:
        reduce(self)
        for _, parameter in self.named_parameters():
            if parameter.grad is not None:
                local(parameter.grad).mul_(2)

    patch.setattr(ParallelModel, "reduce_gradients", doubled)


def _no_sum(patch: Patch) -> None:
    patch.setattr(model, "_sum_flat", lambda tensors, group, device: None)


def _inputs_not_summed(patch: Patch) -> None:
    patch.setattr(perceptron, "share_out", lambda x, group: x)


def _mean_of_means(patch: Patch) -> None:
    """Each data rank divides by its own count; the parts are then averaged."""
    sum_ = ParallelModel.sum_

    def own_count(self: ParallelModel, tensor: Tensor, *dims: str) -> Tensor:
        return tensor.mul_(self.layout.data) if dims == model.SAMPLES else sum_(self, tensor, *dims)

    patch.setattr(ParallelModel, "sum_", own_count)


def _experts_averaged(patch: Patch) -> None:
    """Gradients that come back from the experts' ranks are divided by the number of those."""

    def averaged(x_PD: Tensor, group: Any, inputs: list[int], outputs: list[int]) -> Tensor:
        y_PD = exchange_rows(x_PD, group, inputs, outputs)
        share_PD = y_PD / len(inputs)
        return share_PD + (y_PD - share_PD).detach()

    patch.setattr(decoder, "exchange_rows", averaged)


def _fsdp_averages(patch: Patch) -> None:
    patch.setattr(FSDPModule, "set_gradient_divide_factor", lambda self, factor: None)
    patch.setattr(FSDPModule, "set_force_sum_reduction_for_comms", lambda self, enable: None)


def _copies_in_norm(patch: Patch) -> None:
    """The norm counts what several ranks hold as often as it is held."""
    norm = ParallelModel.gradient_norm

    def counted_again(self: ParallelModel, loss: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(ParallelModel, "copies", lambda self, name, parameter: 1)
            return norm(self, loss)

    patch.setattr(ParallelModel, "gradient_norm", counted_again)


def _after_cutting(patch: Patch, change: Callable[[Decoder, Mesh], None]) -> None:
    def changed(model: Decoder, mesh: Mesh, ring: bool) -> Cuts:
        cuts = decoder.cut_decoder(model, mesh, ring)
        change(model, mesh)
        return cuts

    patch.setattr("groundup.parallel.build.cut_decoder", changed)


def _balance_of_parts(patch: Patch) -> None:
    """Counts per expert are those of the rank's part of the sequence."""

    def change(model: Decoder, mesh: Mesh) -> None:
        for module in model.modules():
            if isinstance(module, Router):
                module.sequence_counts._forward_hooks.clear()

    _after_cutting(patch, change)


def _labels_from_parts(patch: Patch) -> None:
    """Labels made of a rank's own tokens: the last of them has none."""

    def change(model: Decoder, mesh: Mesh) -> None:
        def drop(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            *others, weights_BL = inputs
            weights_BL = weights_BL.clone()
            if mesh.index("context") < mesh.layout.context - 1:
                weights_BL[:, -1] = 0
            return *others, weights_BL

        model.cross_entropy.register_forward_pre_hook(drop)

    _after_cutting(patch, change)


def _positions_restart(patch: Patch) -> None:
    """Rotary positions count from the beginning of each rank's part of the sequence."""

    def change(model: Decoder, mesh: Mesh) -> None:
        def restart(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            *others, context = inputs
            parts = mesh.layout.context
            cos, sin = (x.chunk(parts)[0].repeat(parts, 1) for x in (context.cos, context.sin))
            return *others, context._replace(cos=cos, sin=sin)

        for module in model.modules():
            if isinstance(module, CoreAttention):
                module.register_forward_pre_hook(restart)

    _after_cutting(patch, change)


def _router_weights_cut_off(patch: Patch) -> None:
    """Gradients of the routing weights that other ranks used are dropped."""

    def gather(x: Tensor, group: Any, dim: int) -> Tensor:
        routing = x.shape[-1] == 2
        return (gather_for_all if routing else gather_for_shares)(x, group, dim)

    patch.setattr(decoder, "gather_for_shares", gather)


def _dropout_by_local_row(patch: Patch) -> None:
    share = ParallelModel.share

    def local_rows(self: ParallelModel, *arguments: Any) -> Any:
        rows = share(self, *arguments)
        return replace(rows, positions_B=torch.arange(len(rows)))

    patch.setattr(ParallelModel, "share", local_rows)


def _schedule_scales(patch: Patch) -> None:
    """The schedule divides gradients by the number of micro-batches."""
    make = pipeline.Pipeline.__init__

    def scaling(self: pipeline.Pipeline, *arguments: Any) -> None:
        make(self, *arguments)
        self._schedule.scale_grads = True

    patch.setattr(pipeline.Pipeline, "__init__", scaling)


def _second_copy_stays(patch: Patch) -> None:
    """A tied embedding's second copy on the same rank does not follow the first."""
    patch.setattr(ParallelModel, "renew_copies", lambda self: None)


def _future_in_ring(patch: Patch) -> None:
    """Of its own piece of a sequence a query sees all."""
    hidden = ring._Pairs._hidden

    def all_seen(self: ring._Pairs, queries: int, keys: int, start: int, stop: int) -> Tensor | None:
        found = hidden(self, queries, keys, start, stop)
        return torch.zeros_like(found) if found is not None and queries == keys else found

    patch.setattr(ring._Pairs, "_hidden", all_seen)


def _ring_keeps_gradients(patch: Patch) -> None:
    """Gradients of keys and values are not passed on."""

    class Kept(ring._Sent):
        def __init__(self, x: Tensor, group: Any, tag: int) -> None:
            super().__init__(x, group, tag)
            self.gradients = tag == 1

        def arrived(self) -> Tensor:
            arrived = super().arrived()
            return self.sent if self.gradients else arrived

    patch.setattr(ring, "_Sent", Kept)


LOSSES = ("loss_difference", "displayed_loss_difference")
GRADIENT = ("worst_gradient_difference",)


def _has(*dims: str) -> Callable[[Case], bool]:
    """Rows with any of the dimensions."""
    return lambda row: any(dim in row.layout for dim in dims)


MUTATIONS = {
    "norm layers' gradients doubled": Mutation(
        _doubled_norms, lambda row: row.kind == "decoder" and "tensor" in row.layout, GRADIENT
    ),
    "all gradients doubled along shard": Mutation(
        _doubled_along_shard, _has("shard"), ("grad_norm_difference", *GRADIENT)
    ),
    "tensor ranks' gradients not summed": Mutation(
        _no_sum, lambda row: row.kind != "classifier" and "tensor" in row.layout, GRADIENT
    ),
    "gradients of shared inputs not summed": Mutation(
        _inputs_not_summed, lambda row: row.kind == "classifier" and "tensor" in row.layout, GRADIENT
    ),
    "mean of means": Mutation(_mean_of_means, _has("replicate", "shard"), (*LOSSES, "grad_norm_difference", *GRADIENT)),
    "tied embedding's gradients not summed": Mutation(
        _no_sum,
        lambda row: row.model == "tied" and "pipeline" in row.layout and row.schedule != "zbv",
        GRADIENT,
    ),
    "experts' gradients averaged": Mutation(_experts_averaged, _has("expert"), GRADIENT),
    "FSDP averages": Mutation(
        _fsdp_averages, _has("replicate", "shard", "context"), ("grad_norm_difference", *GRADIENT)
    ),
    "copies counted in the norm": Mutation(_copies_in_norm, _has("replicate", "tensor"), ("grad_norm_difference",)),
    "balance of a part of the sequence": Mutation(
        _balance_of_parts,
        lambda row: row.model == "experts" and _has("context", "tensor")(row),
        ("loss_difference", *GRADIENT),
    ),
    "labels made after slicing": Mutation(_labels_from_parts, _has("context"), (*LOSSES, *GRADIENT)),
    "positions restart in each part": Mutation(_positions_restart, _has("context"), (*LOSSES, *GRADIENT)),
    "future seen in the ring": Mutation(_future_in_ring, lambda row: row.ring, (*LOSSES, *GRADIENT)),
    "gradients not passed round the ring": Mutation(_ring_keeps_gradients, lambda row: row.ring, GRADIENT),
    "routing weights' gradients dropped": Mutation(
        _router_weights_cut_off, lambda row: row.kind == "experts" and "tensor" in row.layout, GRADIENT
    ),
    "dropout mask by local row": Mutation(
        _dropout_by_local_row,
        lambda row: row.kind == "classifier" and _has("replicate", "shard")(row),
        ("displayed_loss_difference", *GRADIENT),
    ),
    "schedule scales gradients": Mutation(_schedule_scales, _has("pipeline"), ("grad_norm_difference", *GRADIENT)),
    "second copy stays behind": Mutation(
        _second_copy_stays,
        lambda row: row.model == "tied" and "pipeline" in row.layout and row.schedule == "zbv",
        ("worst_weight_difference",),
    ),
}
