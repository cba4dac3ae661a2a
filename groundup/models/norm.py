"""RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467).

torch composes it of many passes over memory on a CPU when it runs eagerly, most of them in the backward pass; here are
fewer, over portions of rows, so that nothing of the whole size comes and goes beside what is kept. On a GPU and under
torch.compile torch's own is fused. The result is in autocast's format on any device, where torch's may be fp32: several
products ask for it, and under tensor parallelism it travels.

Shapes: N rows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from groundup.optim.precision import autocast_dtype

_PORTION_BYTES = 2 << 20  # in fp32
_PORTIONS = 64  # at most, or more where rows are left over


def _portions(*tensors: Tensor) -> Any:
    """The same rows of each, [N, its last dimension], a portion at a time."""
    width = tensors[0].shape[-1]
    rows = max(_PORTION_BYTES // (4 * width), tensors[0].numel() // width // _PORTIONS, 1)
    return zip(*(x.reshape(-1, x.shape[-1]).split(rows) for x in tensors), strict=True)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y = torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale)
        for y_ND, x_ND, scale_N1 in _portions(y, x, scale):
            y_ND.copy_((x_ND * scale_N1).mul_(weight_D))
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, scale = ctx.saved_tensors
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        grad_weight_D = torch.zeros_like(weight_D)
        for grad_x_ND, grad_ND, x_ND, scale_N1 in _portions(grad_x, grad_outputs[0], x, scale):
            grad_ND, x_ND = grad_ND.float(), x_ND.float()
            product_ND = grad_ND * x_ND
            grad_weight_D.addmv_(product_ND.t(), scale_N1.squeeze(-1))
            mean_N1 = (product_ND @ weight_D).unsqueeze(-1).mul_(scale_N1.pow(3)).div_(x.shape[-1])
            scaled_ND = torch.mul(grad_ND, weight_D, out=product_ND).mul_(scale_N1)
            grad_x_ND.copy_(scaled_ND.addcmul_(x_ND, mean_N1, value=-1))
        return grad_x, grad_weight_D, None, None


class RmsNorm(nn.RMSNorm):
    """Over the last dimension, in fp32, given in autocast's format."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling() or x.dtype == torch.float64:
            return super().forward(x).to(autocast_dtype(x))
        assert self.eps is not None
        # The weight is gathered in bf16 where that is the format.
        y: Tensor = _RmsNorm.apply(x, self.weight.float(), self.eps, autocast_dtype(x))
        return y
