"""Gradient clipping, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def clip_(grads: list[Tensor], norm: Tensor, largest: float) -> None:
    """Scale gradients in place so that their global norm, which is given, is at most `largest`."""
    if grads:
        torch._foreach_mul_(grads, (largest / (norm + 1e-6)).clamp(max=1.0).to(grads[0].device))
