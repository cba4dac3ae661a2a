"""Dropout (Srivastava et al., JMLR 2014) whose mask is a hash of (seed, layer, place in the stream, feature).

So the mask of a sample is the same on any number of ranks, in any layout and after a resume, and no random state
needs saving. The place in the stream tells both the sample and the epoch.

The hash, in 32 bits for speed: the product of a random number of the row and an odd one of the feature
(multiply-shift; Dietzfelbinger et al., J. Algorithms 1997), then a xor-shift and a second product.

Shapes: B rows, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groundup.random import hash_counters, stream_key

_MIX = 0x2C1B3C6D


class Dropout(nn.Module):
    """Sets a share `p` of the features to zero in training and scales the rest by 1 / (1 - p)."""

    odd_F: Tensor

    def __init__(self, p: float, features: int, seed: int, name: str) -> None:
        super().__init__()
        self.p, self.key = p, stream_key(seed, f"dropout.{name}")
        columns_F = torch.arange(features)
        odd_F = hash_counters(stream_key(seed, f"dropout.{name}.features"), columns_F).to(torch.int32) | 1
        self.register_buffer("odd_F", odd_F, persistent=False)

    def keep(self, positions_B: Tensor) -> Tensor:
        """bool [B, F], True where a feature is kept. positions: int64, places in the stream."""
        row_B1 = hash_counters(self.key, positions_B).to(torch.int32)[:, None]
        bits_BF = row_B1 * self.odd_F
        bits_BF = bits_BF.bitwise_xor_(bits_BF >> 15).mul_(_MIX)
        # Uniform over all of int32: a share p lies below.
        return bits_BF >= round(self.p * 2**32) - 2**31

    def forward(self, x_BF: Tensor, positions_B: Tensor | None) -> Tensor:
        if not self.training or self.p == 0.0:
            return x_BF
        assert positions_B is not None, "dropout needs the rows' places in the stream"
        return x_BF * (self.keep(positions_B) * (1.0 / (1.0 - self.p)))
