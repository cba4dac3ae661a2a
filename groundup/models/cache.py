"""Keys and values of tokens already seen, for decoding.

Shapes: S slots, G key-value heads, T tokens a slot can hold, K width of a head, B batch, L new tokens per row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groundup.recipe.model import Model


class KeyValueCache:
    """One buffer per layer and kind."""

    def __init__(self, model: Model, slots: int, length: int, dtype: torch.dtype, device: torch.device | str) -> None:
        assert model.kv_heads is not None
        assert model.head_dim is not None
        shape = (slots, model.kv_heads, length, model.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(model.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(model.layers)]
        self.length = length

    def rows(self, start: int, stop: int) -> KeyValueCache:
        """The slots [start, stop) as a cache of their own that shares this one's memory."""
        part = object.__new__(KeyValueCache)
        part.keys = [k[start:stop] for k in self.keys]
        part.values = [v[start:stop] for v in self.values]
        part.length = self.length
        return part

    def update(
        self, layer: int, key_BGLK: Tensor, value_BGLK: Tensor, positions_BL: Tensor, seen: int
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens at their positions; return the first `seen` keys and values of each row."""
        keys, values = self.keys[layer], self.values[layer]
        row_B1 = torch.arange(key_BGLK.shape[0], device=keys.device)[:, None]
        # Advanced indices around a slice put the indexed dimensions first: [B, L, G, K].
        keys[row_B1, :, positions_BL] = key_BGLK.transpose(1, 2).to(keys.dtype)
        values[row_B1, :, positions_BL] = value_BGLK.transpose(1, 2).to(values.dtype)
        return keys[:, :, :seen], values[:, :, :seen]
