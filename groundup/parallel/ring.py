"""Ring attention (Liu et al., 2023, arXiv:2310.01889): queries stay, keys and values go round the context ranks. So a
sequence can be cut over more ranks than there are heads, and no rank ever holds all of it.

A sequence is cut into two pieces per rank, and a rank holds the n-th from the front and the n-th from the back: under a
causal mask all ranks then have the same work. Outputs over the keys of one piece are put together by the logarithms of
their sums of exponentials; the backward pass computes probabilities again from the whole sum, as FlashAttention does
(Dao et al., 2022, arXiv:2205.14135), and gradients of keys and values go round with them.

Products are fp32 and plain, on any device; the fused kernels for it run on GPUs only and take no documents.

Shapes: B batch, L sequence, c context ranks, l = L / c tokens of a rank, p = l / 2 tokens of a piece, H query heads,
G key-value heads, R = H / G, K width of a head, N = B * G, Q queries of a block times R.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, Work

from groundup.models.attention import Context, CoreAttention
from groundup.models.rope import rotate

_BLOCK = 512  # queries whose scores exist at a time


def pieces_of(rank: int, ranks: int) -> tuple[int, int]:
    """Which two of 2c pieces a rank holds."""
    return rank, 2 * ranks - 1 - rank


def own_pieces(x: Tensor, rank: int, ranks: int, dim: int) -> Tensor:
    """A rank's two pieces of a whole sequence along `dim`, put together."""
    pieces = x.chunk(2 * ranks, dim)
    return torch.cat([pieces[n] for n in pieces_of(rank, ranks)], dim)


def attend_in_ring(
    module: CoreAttention,
    group: ProcessGroup,
    query_BlHK: Tensor,
    key_BlGK: Tensor,
    value_BlGK: Tensor,
    context: Context,
) -> Tensor:
    """In place of CoreAttention.forward: [B, l, H, K] of a rank's pieces. The context is that of whole sequences."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    cos, sin = (own_pieces(x, rank, ranks, -2) for x in (context.cos, context.sin))
    query, key = rotate(query_BlHK, cos, sin), rotate(key_BlGK, cos, sin)
    with torch.autocast(query.device.type, enabled=False):
        attended: Tensor = _Ring.apply(query, key, value_BlGK, context.documents_BL, group)
    return attended


class _Sent:
    """A tensor on its way to the next rank, and the one that comes from the rank before."""

    def __init__(self, x: Tensor, group: ProcessGroup, tag: int) -> None:
        rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        self.sent, self.arriving = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        there = dist.P2POp(dist.isend, self.sent, group=group, group_peer=(rank + 1) % ranks, tag=tag)
        here = dist.P2POp(dist.irecv, self.arriving, group=group, group_peer=(rank - 1) % ranks, tag=tag)
        self.work: list[Work] = dist.batch_isend_irecv([there, here])

    def arrived(self) -> Tensor:
        for work in self.work:
            work.wait()
        return self.arriving


class _Pairs:
    """Which queries of this rank meet which keys of another: pieces, their documents, and blocks of the queries."""

    def __init__(self, group: ProcessGroup, length: int, documents_BL: Tensor | None) -> None:
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.piece = length // 2
        self.documents = None if documents_BL is None else documents_BL.chunk(2 * self.ranks, 1)

    def source(self, hop: int) -> int:
        """Whose keys are here after so many hops."""
        return (self.rank - hop) % self.ranks

    def of(self, source: int) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Queries' and keys' places in what this rank and the source hold, and a mask, bool [B or 1, queries, keys],
        True where a key may not be seen. Each query's own piece comes before all others."""
        for n, queries in enumerate(pieces_of(self.rank, self.ranks)):
            for m, keys in sorted(enumerate(pieces_of(source, self.ranks)), key=lambda entry: -entry[1]):
                if keys > queries:
                    continue
                seen = slice(m * self.piece, (m + 1) * self.piece)
                for start in range(0, self.piece, _BLOCK):
                    stop = min(start + _BLOCK, self.piece)
                    block = slice(n * self.piece + start, n * self.piece + stop)
                    yield block, seen, self._hidden(queries, keys, start, stop)

    def _hidden(self, queries: int, keys: int, start: int, stop: int) -> Tensor | None:
        hidden = None
        if self.documents is not None:
            hidden = self.documents[queries][:, start:stop, None] != self.documents[keys][:, None, :]
        if queries != keys:
            return hidden
        device = None if hidden is None else hidden.device
        later = torch.ones(stop - start, self.piece, dtype=torch.bool, device=device).triu(start + 1)[None]
        return later if hidden is None else hidden | later


def _by_group(x_BlHK: Tensor, groups: int) -> Tensor:
    """fp32 [N, l, R, K]."""
    x: Tensor = x_BlHK.float().unflatten(2, (groups, -1))
    return x.transpose(1, 2).flatten(0, 1).contiguous()


def _by_row(x_NlRK: Tensor, batch: int) -> Tensor:
    """Back to [B, l, H, K]."""
    x: Tensor = x_NlRK.unflatten(0, (batch, -1))
    return x.transpose(1, 2).flatten(2, 3)


def _product(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """scale * a @ b. Not bmm, whose results selective activation checkpointing would keep."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _scores(query_NQK: Tensor, key_NpK: Tensor, hidden: Tensor | None, batch: int, scale: float) -> Tensor:
    """[N, Q, p], -inf where a key may not be seen."""
    score_NQp = _product(query_NQK, key_NpK.mT, scale)
    if hidden is not None:
        rows = hidden.shape[1]
        by_row = score_NQp.view(batch, -1, rows, query_NQK.shape[1] // rows, key_NpK.shape[1])
        by_row.masked_fill_(hidden.to(score_NQp.device)[:, None, :, None], float("-inf"))
    return score_NQp


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_BlHK: Tensor,
        key_BlGK: Tensor,
        value_BlGK: Tensor,
        documents_BL: Tensor | None,
        group: ProcessGroup,
    ) -> Tensor:
        batch, length, _, width = query_BlHK.shape
        groups = key_BlGK.shape[2]
        pairs = _Pairs(group, length, documents_BL)
        query_NlRK = _by_group(query_BlHK, groups)
        out_NlRK = torch.zeros_like(query_NlRK)
        total_NlR = query_NlRK.new_full(query_NlRK.shape[:-1], float("-inf"))
        both = torch.stack((key_BlGK, value_BlGK))
        for hop in range(pairs.ranks):
            sent = _Sent(both, group, 0) if hop < pairs.ranks - 1 else None
            key_NlK, value_NlK = (_by_group(x, groups).flatten(2) for x in both)
            for block, seen, hidden in pairs.of(pairs.source(hop)):
                query_NQK = query_NlRK[:, block].flatten(1, 2)
                score_NQp = _scores(query_NQK, key_NlK[:, seen], hidden, batch, width**-0.5)
                here_NQ = score_NQp.logsumexp(-1)
                before_NQ = total_NlR[:, block].flatten(1)
                # Finite from the first pair on, where a query sees itself; -inf is what it sees none of.
                after_NQ = torch.logaddexp(before_NQ, here_NQ)
                y_NQK = _product(score_NQp.sub_(after_NQ[..., None]).exp_(), value_NlK[:, seen])
                out_NQK = out_NlRK[:, block].flatten(1, 2) * (before_NQ - after_NQ).exp_()[..., None]
                out_NlRK[:, block] = out_NQK.add_(y_NQK).view_as(out_NlRK[:, block])
                total_NlR[:, block] = after_NQ.view_as(total_NlR[:, block])
            if sent is not None:
                both = sent.arrived()
        out_BlHK = _by_row(out_NlRK, batch).to(query_BlHK.dtype)
        ctx.save_for_backward(query_BlHK, key_BlGK, value_BlGK, out_BlHK, total_NlR, documents_BL)
        ctx.group = group
        return out_BlHK

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query_BlHK, key_BlGK, value_BlGK, out_BlHK, total_NlR, documents_BL = ctx.saved_tensors
        batch, length, _, width = query_BlHK.shape
        groups, scale = key_BlGK.shape[2], width**-0.5
        pairs = _Pairs(ctx.group, length, documents_BL)
        query_NlRK, grad_NlRK = _by_group(query_BlHK, groups), _by_group(grad_outputs[0], groups)
        common_NlR = (grad_NlRK * _by_group(out_BlHK, groups)).sum(-1)
        grad_query_NlRK = torch.zeros_like(query_NlRK)
        both, grads_sent = torch.stack((key_BlGK, value_BlGK)), None
        for hop in range(pairs.ranks):
            sent = _Sent(both, ctx.group, 0) if hop < pairs.ranks - 1 else None
            key_NlK, value_NlK = (_by_group(x, groups).flatten(2) for x in both)
            grads = torch.zeros_like(key_NlK), torch.zeros_like(value_NlK)
            for block, seen, hidden in pairs.of(pairs.source(hop)):
                query_NQK, grad_NQK = query_NlRK[:, block].flatten(1, 2), grad_NlRK[:, block].flatten(1, 2)
                score_NQp = _scores(query_NQK, key_NlK[:, seen], hidden, batch, scale)
                weight_NQp = score_NQp.sub_(total_NlR[:, block].flatten(1)[..., None]).exp_()
                grads[1][:, seen] += _product(weight_NQp.mT, grad_NQK)
                grad_score_NQp = _product(grad_NQK, value_NlK[:, seen].mT)
                grad_score_NQp.sub_(common_NlR[:, block].flatten(1)[..., None]).mul_(weight_NQp)
                grad_query_NlRK[:, block] += _product(grad_score_NQp, key_NlK[:, seen], scale).view_as(
                    grad_query_NlRK[:, block]
                )
                grads[0][:, seen] += _product(grad_score_NQp.mT, query_NQK, scale)
            grad_both = torch.stack(grads)
            if grads_sent is not None:
                grad_both += grads_sent.arrived()  # of the ranks that had these keys before
            grads_sent = _Sent(grad_both, ctx.group, 1)
            if sent is not None:
                both = sent.arrived()
        assert grads_sent is not None
        grad_key, grad_value = (
            _by_row(x.unsqueeze(2), batch).to(key_BlGK.dtype) for x in grads_sent.arrived()
        )  # home again
        return _by_row(grad_query_NlRK, batch).to(query_BlHK.dtype), grad_key, grad_value, None, None
