"""Global gradient norm and clipping, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@torch.no_grad()
def global_norm(grads: list[Tensor]) -> Tensor:
    """Euclidean norm over all gradients, an fp32 scalar on their device."""
    norms: list[Tensor] = list(torch._foreach_norm(grads))
    norm: Tensor = torch.stack([n.float() for n in norms]).norm()
    return norm


@torch.no_grad()
def clip_(grads: list[Tensor], norm: Tensor, largest: float) -> None:
    """Scale gradients in place so that their global norm is at most `largest`."""
    torch._foreach_mul_(grads, (largest / (norm + 1e-6)).clamp(max=1.0))
