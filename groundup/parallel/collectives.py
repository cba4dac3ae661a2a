"""Collectives that autograd can differentiate.

What a rank holds of a tensor is one of three: a block of it, all of it, or a term of a sum that makes it. The gradient
of something held whole by all ranks, each of which uses it for its own share of the work, is a sum over the ranks.

Shapes: t ranks of the group; B batch, L sequence, l = L / t, H heads, K width of a head, D width, P rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

T = TypeVar("T")


def _gather(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    """Blocks along `dim` put together."""
    size = dist.get_world_size(group)
    out = x.new_empty((size * x.shape[0], *x.shape[1:]))
    dist.all_gather_single(out, x.contiguous(), group=group)
    whole: Tensor = out.unflatten(0, (size, -1)).movedim(0, dim).flatten(dim, dim + 1)
    return whole


def _reduce_scatter(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    """This rank's block along `dim` of the sum."""
    size = dist.get_world_size(group)
    blocks = x.unflatten(dim, (size, -1)).movedim(dim, 0).flatten(0, 1).contiguous()
    out: Tensor = blocks.new_empty((blocks.shape[0] // size, *blocks.shape[1:]))
    dist.reduce_scatter_single(out, blocks, group=group)
    return out


def _block(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    return x.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)].contiguous()


def _all_reduce(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, group=group)
    return out


def _same(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    return x.view_as(x)


def agreed(choose: Callable[[], T]) -> T:
    """What the first of all processes chooses, known to all of them; of a process alone, what it chooses."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return choose()
    found: list[Any] = [choose() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    chosen: T = found[0]
    return chosen


Collective = Callable[[Tensor, ProcessGroup, int], Tensor]


class _Pair(torch.autograd.Function):
    """A collective forward, and its transpose backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup, dim: int, there: Collective, back: Collective) -> Tensor:
        ctx.group, ctx.dim, ctx.back = group, dim, back
        return there(x, group, dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(grad_outputs[0], ctx.group, ctx.dim), None, None, None, None


def gather_for_shares(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    """Blocks to the whole, of which each rank then does its share of the work."""
    y: Tensor = _Pair.apply(x, group, dim, _gather, _reduce_scatter)
    return y


def sum_to_blocks(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    """Terms of a sum to blocks of it."""
    y: Tensor = _Pair.apply(x, group, dim, _reduce_scatter, _gather)
    return y


def gather_for_all(x: Tensor, group: ProcessGroup, dim: int) -> Tensor:
    """Blocks to the whole, with which every rank then does the same."""
    y: Tensor = _Pair.apply(x, group, dim, _gather, _block)
    return y


def share_out(x: Tensor, group: ProcessGroup) -> Tensor:
    """What all ranks hold whole, to be used by each for its share of the work."""
    y: Tensor = _Pair.apply(x, group, 0, _same, _all_reduce)
    return y


def _exchange(x: Tensor, group: ProcessGroup, inputs: list[int] | None, outputs: list[int] | None) -> Tensor:
    """Block i along the first dimension to rank i; blocks of equal size, or of these."""
    rows = x.shape[0] if outputs is None else sum(outputs)
    out = x.new_empty((rows, *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), outputs, inputs, group=group)
    return out


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: ProcessGroup, inputs: list[int] | None, outputs: list[int] | None
    ) -> Tensor:
        ctx.group, ctx.inputs, ctx.outputs = group, inputs, outputs
        return _exchange(x, group, inputs, outputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grad_outputs[0], ctx.group, ctx.outputs, ctx.inputs), None, None, None


def exchange_rows(x_PD: Tensor, group: ProcessGroup, inputs: list[int], outputs: list[int]) -> Tensor:
    """The first `inputs[0]` rows to rank 0, the next to rank 1 and so on; `outputs` tells how many come from each."""
    y: Tensor = _Exchange.apply(x_PD, group, inputs, outputs)
    return y


def sequence_to_heads(x_BlHK: Tensor, group: ProcessGroup) -> Tensor:
    """Blocks of the sequence with all heads to the whole sequence with some heads (Ulysses, arXiv:2309.14509)."""
    size = dist.get_world_size(group)
    blocks = x_BlHK.unflatten(2, (size, -1)).permute(2, 0, 1, 3, 4)
    y = _Exchange.apply(blocks, group, None, None)
    return y.movedim(0, 1).flatten(1, 2)  # type: ignore[no-any-return]


def heads_to_sequence(x_BLHK: Tensor, group: ProcessGroup) -> Tensor:
    """Back again."""
    size = dist.get_world_size(group)
    blocks = x_BLHK.unflatten(1, (size, -1)).movedim(1, 0)
    y = _Exchange.apply(blocks, group, None, None)
    return y.movedim(0, 2).flatten(2, 3)  # type: ignore[no-any-return]
