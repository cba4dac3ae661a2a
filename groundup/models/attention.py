"""Grouped-query attention with rotary positions.

Shapes: B batch, L sequence, D width of the model, H query heads, G key-value heads, K width of a head,
S keys attended to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models.blockwise import BEST_UP_TO, rotary_attention
from groundup.models.cache import KeyValueCache
from groundup.models.linear import Linear
from groundup.models.norm import RmsNorm
from groundup.models.rope import rotate
from groundup.optim.precision import autocast_dtype, product_dtype_of
from groundup.recipe.model import Model


class Context(NamedTuple):
    """What the layers share in one forward pass."""

    cos: Tensor  # fp32 [L, K / 2] or [B, L, K / 2]
    sin: Tensor
    mask: Tensor | None = None  # bool [B, 1, L, S], True where a key may be seen; None: causal
    documents_BL: Tensor | None = None  # in place of a mask where attention runs in blocks
    cache: KeyValueCache | None = None
    positions_BL: Tensor | None = None  # with a cache: where the new tokens go
    seen: int = 0  # with a cache: length of the longest row, new tokens included


def runs_in_blocks(x: Tensor, length: int) -> bool:
    """Whether attention over sequences of this length, on x's device, takes `rotary_attention`."""
    return x.device.type == "cpu" and length <= BEST_UP_TO


class Attention(nn.Module):
    """Projections are kept apart, so that names are the same in every layout."""

    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        assert model.kv_heads is not None
        assert model.head_dim is not None
        self.head_dim = model.head_dim
        self.core = CoreAttention(layer, grouped=model.kv_heads != model.heads)
        self.query = Linear(model.hidden_size, model.heads * model.head_dim, bias=False)
        self.key = Linear(model.hidden_size, model.kv_heads * model.head_dim, bias=False)
        self.value = Linear(model.hidden_size, model.kv_heads * model.head_dim, bias=False)
        self.output = Linear(model.heads * model.head_dim, model.hidden_size, bias=False)
        self.query_norm = RmsNorm(model.head_dim, eps=model.norm_eps) if model.qk_norm else nn.Identity()
        self.key_norm = RmsNorm(model.head_dim, eps=model.norm_eps) if model.qk_norm else nn.Identity()

    def forward(self, x_BLD: Tensor, context: Context) -> Tensor:
        # -1 for the heads: under tensor parallelism a rank holds some of them.
        query_BLHK = self.query(x_BLD).unflatten(-1, (-1, self.head_dim))
        key_BLGK = self.key(x_BLD).unflatten(-1, (-1, self.head_dim))
        value_BLGK = self.value(x_BLD).unflatten(-1, (-1, self.head_dim))
        query_BLHK, key_BLGK = self.query_norm(query_BLHK), self.key_norm(key_BLGK)
        attended_BLHK = self.core(query_BLHK, key_BLGK, value_BLGK, context)
        y_BLD: Tensor = self.output(attended_BLHK.flatten(2))
        return y_BLD


class CoreAttention(nn.Module):
    """Rotate queries and keys, and attend: what needs all of a sequence, but each head alone."""

    def __init__(self, layer: int, grouped: bool) -> None:
        super().__init__()
        self.layer, self.grouped = layer, grouped

    def forward(self, query_BLHK: Tensor, key_BLGK: Tensor, value_BLGK: Tensor, context: Context) -> Tensor:
        """[B, L, H, K]"""
        unmasked = context.mask is None and context.cos.ndim == 2
        if unmasked and runs_in_blocks(query_BLHK, query_BLHK.shape[1]):
            return rotary_attention(query_BLHK, key_BLGK, value_BLGK, context.cos, context.sin, context.documents_BL)
        query_BHLK = rotate(query_BLHK, context.cos, context.sin).transpose(1, 2)
        key_BGSK = rotate(key_BLGK, context.cos, context.sin).transpose(1, 2)
        value_BGSK = value_BLGK.transpose(1, 2)
        if context.cache is not None:
            assert context.positions_BL is not None
            key_BGSK, value_BGSK = context.cache.update(
                self.layer, key_BGSK, value_BGSK, context.positions_BL, context.seen
            )
        dtype = product_dtype_of(query_BHLK)
        with torch.autocast(query_BHLK.device.type, enabled=False):
            attended_BHLK = F.scaled_dot_product_attention(
                query_BHLK.to(dtype),
                key_BGSK.to(dtype),
                value_BGSK.to(dtype),
                attn_mask=context.mask,
                is_causal=context.mask is None,
                enable_gqa=self.grouped,
            )
        return attended_BHLK.transpose(1, 2).to(autocast_dtype(query_BLHK))
