"""Rotary causal attention for short sequences on a CPU, in blocks of queries through batched matrix products.

torch's fused attention is built for GPUs first: on a CPU it is slower than this at up to about a thousand tokens
(docs/lab-notes.md). Only the keys a block can see are multiplied. Probabilities are kept for the backward pass, half of
L per head and token, where FlashAttention computes them again: at these lengths memory is there and time is not.
Rotation and scaling are done while heads are laid out for the products. All of it is computed in fp32, whatever comes
in: it is still ahead of torch's own in bf16. What is kept for the backward pass is in the format that came in.

Where a row holds several documents, a token sees its own only: `documents`, int64 [B, L].

Shapes: B batch, L sequence, G key-value heads, R query heads per key-value head, K width of a head, N = B * G,
Q queries of a block, S keys seen by it, P probabilities of all blocks in one buffer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

BEST_UP_TO = 1024  # tokens; beyond, torch's own is as fast
_BLOCK = 64  # queries


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """out = x with its halves rotated against each other; the same logical shape, any strides."""
    half = x.shape[-1] // 2
    torch.mul(x, torch.cat((cos, cos), -1), out=out)
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)


@cache
def _future(size: int) -> Tensor:
    """What is added to a square of scores on the diagonal: -inf where the key comes after the query."""
    future: Tensor = torch.full((size, size), float("-inf")).triu(1)
    return future


def _blocks(rows: int, length: int) -> list[tuple[slice, slice]]:
    """Queries of each block, and its place in the buffer of probabilities; `rows` = N * R."""
    found, place = [], 0
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        size = rows * (stop - start) * stop
        found.append((slice(start, stop), slice(place, place + size)))
        place += size
    return found


def _heads_first(x_BLHK: Tensor, groups: int) -> Tensor:
    """A view [B, G, R, L, K]."""
    x: Tensor = x_BLHK.unflatten(2, (groups, -1))
    return x.permute(0, 2, 3, 1, 4)


@torch.library.custom_op("groundup::rotary_attention", mutates_args=())
def _forward(
    query_BLHK: Tensor,
    key_BLGK: Tensor,
    value_BLGK: Tensor,
    cos_LK: Tensor,
    sin_LK: Tensor,
    documents_BL: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output [B, L, H, K], and what the backward pass needs: rotated and scaled queries, rotated keys, values,
    probabilities; all in the queries' format."""
    b, length, h, width = query_BLHK.shape
    g, dtype = key_BLGK.shape[2], query_BLHK.dtype
    n, r = b * g, h // g
    scale = width**-0.5
    blocks = _blocks(n * r, length)
    # What is kept has its memory before what is not, which then leaves no holes between.
    all_probabilities_P = torch.empty(blocks[-1][1].stop, dtype=dtype)
    out_BLHK = torch.empty(b, length, h, width, dtype=dtype)
    kept_query, kept_key, kept_value = (
        torch.empty(shape, dtype=dtype) for shape in ((n, r, length, width), (n, length, width), (n, length, width))
    )
    out = _heads_first(out_BLHK, g)
    query_NRLK, key_NLK, value_NLK = (
        x if dtype == torch.float32 else torch.empty_like(x, dtype=torch.float32)
        for x in (kept_query, kept_key, kept_value)
    )
    _rotate_into(query_NRLK.view(b, g, r, length, width), _heads_first(query_BLHK, g), cos_LK * scale, sin_LK * scale)
    _rotate_into(key_NLK.view(b, g, 1, length, width), _heads_first(key_BLGK, g), cos_LK, sin_LK)
    value_NLK.view(b, g, length, width).copy_(value_BLGK.transpose(1, 2))
    for block, place in blocks:
        size = block.stop - block.start
        kept = all_probabilities_P[place].view(n, r * size, block.stop)
        scores = kept if dtype == torch.float32 else torch.empty_like(kept, dtype=torch.float32)
        torch.bmm(query_NRLK[:, :, block].reshape(n, -1, width), key_NLK[:, : block.stop].mT, out=scores)
        scores.view(n, r, size, block.stop)[..., block] += _future(size)
        if documents_BL is not None:
            others = documents_BL[:, block, None] != documents_BL[:, None, : block.stop]
            scores.view(b, h, size, block.stop).masked_fill_(others[:, None], float("-inf"))
        probabilities = torch.softmax(scores, -1, out=scores)
        out[:, :, :, block] = torch.bmm(probabilities, value_NLK[:, : block.stop]).view(b, g, r, size, width)
        if kept is not scores:
            kept.copy_(probabilities)
    if dtype != torch.float32:
        kept_query.copy_(query_NRLK)
        kept_key.copy_(key_NLK)
        kept_value.copy_(value_NLK)
    return out_BLHK, kept_query, kept_key, kept_value, all_probabilities_P


@torch.library.custom_op("groundup::rotary_attention_backward", mutates_args=())
def _backward(
    grad_BLHK: Tensor,
    query_NRLK: Tensor,
    key_NLK: Tensor,
    value_NLK: Tensor,
    all_probabilities_P: Tensor,
    cos_LK: Tensor,
    sin_LK: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values as they came in, in the format of the incoming gradient."""
    b, length, h, width = grad_BLHK.shape
    g, dtype = key_NLK.shape[0] // b, grad_BLHK.dtype
    scale = width**-0.5
    grad = _heads_first(grad_BLHK.float(), g)
    query_NRLK, key_NLK, value_NLK = query_NRLK.float(), key_NLK.float(), value_NLK.float()
    grad_query_NRLK = torch.empty_like(query_NRLK)
    grad_key_NLK, grad_value_NLK = torch.empty_like(key_NLK), torch.empty_like(value_NLK)
    n, r = b * g, h // g
    # The last block sees all keys, so its part is what the others are added to.
    for block, place in reversed(_blocks(n * r, length)):
        seen = slice(0, block.stop)
        probabilities = all_probabilities_P[place].view(n, -1, block.stop).float()
        query = query_NRLK[:, :, block].reshape(n, -1, width)
        grad_out = grad[:, :, :, block].reshape(n, -1, width)
        if block.stop == length:
            torch.bmm(probabilities.mT, grad_out, out=grad_value_NLK)
        else:
            # A product of its own and a sum: baddbmm_ into a slice falls back to one small product after another.
            grad_value_NLK[:, seen] += torch.bmm(probabilities.mT, grad_out)
        grad_probabilities = torch.bmm(grad_out, value_NLK[:, seen].mT)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_probabilities, probabilities, -1, torch.float32)
        grad_query_NRLK[:, :, block] = torch.bmm(grad_scores, key_NLK[:, seen]).view(n, r, -1, width)
        if block.stop == length:
            torch.bmm(grad_scores.mT, query, out=grad_key_NLK)
        else:
            grad_key_NLK[:, seen] += torch.bmm(grad_scores.mT, query)
    # A rotation's transpose is the rotation back.
    out_query = torch.empty(b, length, h, width)
    grad_query = grad_query_NRLK.view(b, g, r, length, width)
    _rotate_into(_heads_first(out_query, g), grad_query, cos_LK * scale, -sin_LK * scale)
    out_key = torch.empty(b, length, g, width)
    _rotate_into(_heads_first(out_key, g), grad_key_NLK.view(b, g, 1, length, width), cos_LK, -sin_LK)
    out_value = grad_value_NLK.view(b, g, length, width).transpose(1, 2).contiguous()
    return out_query.to(dtype), out_key.to(dtype), out_value.to(dtype)


@_forward.register_fake
def _(query_BLHK: Tensor, key_BLGK: Tensor, value_BLGK: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
    b, length, h, width = query_BLHK.shape
    g = key_BLGK.shape[2]
    empty = query_BLHK.new_empty
    n, probabilities = b * g, empty(_blocks(b * h, length)[-1][1].stop)
    folded = (empty((n, h // g, length, width)), empty((n, length, width)), empty((n, length, width)))
    return query_BLHK.new_empty(b, length, h, width), *folded, probabilities


@_backward.register_fake
def _(grad_BLHK: Tensor, query_NRLK: Tensor, key_NLK: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, length, h, width = grad_BLHK.shape
    g = key_NLK.shape[0] // b
    empty = grad_BLHK.new_empty
    return empty(b, length, h, width), empty(b, length, g, width), empty(b, length, g, width)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:], *inputs[3:5])


def _differentiate(ctx: Any, grad_BLHK: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    with torch.autocast("cpu", enabled=False):
        query, key, value = _backward(grad_BLHK.contiguous(), *ctx.saved_tensors)
    return query, key, value, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def rotary_attention(
    query_BLHK: Tensor,
    key_BLGK: Tensor,
    value_BLGK: Tensor,
    cos_LK: Tensor,
    sin_LK: Tensor,
    documents_BL: Tensor | None = None,
) -> Tensor:
    """Causal attention of rotated queries and keys, [B, L, H, K] in their format. cos, sin: fp32 [L, K / 2]."""
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _forward(query_BLHK, key_BLGK, value_BLGK, cos_LK, sin_LK, documents_BL)[0]
    return out
