"""RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467).

torch composes it of many passes over memory on a CPU when it runs eagerly, most of them in the backward pass; here are
fewer. On a GPU and under torch.compile torch's own is fused.

Shapes: N rows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale)
        y: Tensor = (x * scale).mul_(weight_D)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        x, weight_D, scale = ctx.saved_tensors
        product_ND = (grad * x).reshape(-1, x.shape[-1])
        grad_weight_D = product_ND.t() @ scale.view(-1)
        mean = (product_ND @ weight_D).view(scale.shape).mul_(scale.pow(3)).div_(x.shape[-1])
        grad_x = (grad * weight_D).mul_(scale).addcmul_(x, mean, value=-1)
        return grad_x, grad_weight_D, None


class RmsNorm(nn.RMSNorm):
    """Over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling() or x.dtype != torch.float32:
            return super().forward(x)
        assert self.eps is not None
        y: Tensor = _RmsNorm.apply(x, self.weight.to(x.dtype), self.eps)  # gathered in bf16 where that is the format
        return y
