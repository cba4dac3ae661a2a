"""Dropout (Srivastava et al., JMLR 2014) whose mask is a hash of (seed, layer, place in the stream, feature).

So the mask of a sample is the same on any number of ranks, in any layout and after a resume, and no random state
needs saving. The place in the stream tells both the sample and the epoch.

The hash is the upper bits of a product of two 32-bit numbers, a random one of the row and a random odd one of the
layer's feature (multiply-shift; Dietzfelbinger et al., J. Algorithms 25, 1997): one product per element.

Shapes: B rows, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groundup.random import hash_counters, stream_key


def rows_key(seed: int) -> int:
    return stream_key(seed, "dropout")


def row_numbers(key: int, positions_B: Tensor) -> Tensor:
    """A random int32 [B, 1] of each place in the stream, for all layers."""
    return hash_counters(key, positions_B).to(torch.int32)[:, None]


class Dropout(nn.Module):
    """Sets a share `p` of the features to zero in training and scales the rest by 1 / (1 - p)."""

    odd_F: Tensor

    def __init__(self, p: float, features: int, seed: int, name: str) -> None:
        super().__init__()
        self.p, self.features = p, features
        self.key = stream_key(seed, f"dropout.{name}")
        self.reset_buffers(torch.get_default_device())

    def reset_buffers(self, device: torch.device | str) -> None:
        odd_F = hash_counters(self.key, torch.arange(self.features, device=device)).to(torch.int32) | 1
        self.register_buffer("odd_F", odd_F, persistent=False)

    def keep(self, rows_B1: Tensor) -> Tensor:
        """bool [B, F], True where a feature is kept."""
        # Uniform over all of int32: a share p lies below.
        return rows_B1 * self.odd_F >= round(self.p * 2**32) - 2**31

    def forward(self, x_BF: Tensor, rows_B1: Tensor | None) -> Tensor:
        if rows_B1 is None or not self.training or self.p == 0.0:
            return x_BF
        return x_BF * (self.keep(rows_B1) * (1.0 / (1.0 - self.p)))
