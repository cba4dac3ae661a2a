"""SwiGLU (Shazeer, 2020, arXiv:2002.05202).

Run eagerly on a CPU, torch keeps four tensors of the inner width per layer for the backward pass. Here two are kept,
and the element-wise steps run over rows that fit a core's cache (docs/lab-notes.md). On a GPU and under torch.compile
the plain formula is fused.

Shapes: B batch, L sequence, D width of the model, F inner width, N rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groundup.models.linear import Linear, product, product_of_rows
from groundup.optim.precision import product_dtype_of

_CACHED_BYTES = 512 << 10  # of one operand


def _portions(x_NF: Tensor) -> list[slice]:
    rows = max(1, _CACHED_BYTES // (x_NF.shape[1] * x_NF.element_size()))
    return [slice(start, start + rows) for start in range(0, x_NF.shape[0], rows)]


def _rows(x: Tensor) -> Tensor:
    """Whatever stands before the last dimension as one."""
    return x.reshape(-1, x.shape[-1])


def _gated(gate_BLF: Tensor, up_BLF: Tensor) -> Tensor:
    return F.silu(gate_BLF) * up_BLF


class _DownOfGated(torch.autograd.Function):
    """(silu(gate) * up) @ down.T, multiplied in the format of `down`."""

    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor, down_DF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF, down_DF)
        inner_NF = torch.empty_like(gate_NF)
        for part in _portions(gate_NF):
            torch.ops.aten.silu.out(gate_NF[part], out=inner_NF[part]).mul_(up_NF[part])
        return product(inner_NF, down_DF.t())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        (grad_ND,) = grad_outputs
        gate_NF, up_NF, down_DF = ctx.saved_tensors
        grad_inner_NF = product(grad_ND, down_DF)
        inner_NF, grad_up_NF = torch.empty_like(gate_NF), torch.empty_like(gate_NF)
        for part in _portions(gate_NF):
            gate, up, inner, grad_inner = gate_NF[part], up_NF[part], inner_NF[part], grad_inner_NF[part]
            torch.ops.aten.silu.out(gate, out=inner)
            torch.mul(grad_inner, inner, out=grad_up_NF[part])
            inner.mul_(up)
            torch.ops.aten.silu_backward.grad_input(grad_inner.mul_(up), gate, grad_input=grad_inner)
        return grad_inner_NF, grad_up_NF, product_of_rows(grad_ND, inner_NF, down_DF.dtype)


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, ffn_size: int) -> None:
        super().__init__()
        self.gate = Linear(hidden_size, ffn_size, bias=False)
        self.up = Linear(hidden_size, ffn_size, bias=False)
        self.down = Linear(ffn_size, hidden_size, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        gate_BLF, up_BLF = self.gate(x_BLD), self.up(x_BLD)
        if torch.compiler.is_compiling():
            inner_BLF = checkpoint(_gated, gate_BLF, up_BLF, use_reentrant=False)
            y_BLD: Tensor = self.down(inner_BLF)
            return y_BLD
        if gate_BLF.device.type != "cpu":
            y_BLD = self.down(_gated(gate_BLF, up_BLF))
            return y_BLD
        down_DF = self.down.weight.to(product_dtype_of(gate_BLF))
        with torch.autocast("cpu", enabled=False):
            y_ND: Tensor = _DownOfGated.apply(_rows(gate_BLF), _rows(up_BLF), down_DF)
        return y_ND.view_as(x_BLD)
