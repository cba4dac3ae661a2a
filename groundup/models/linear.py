"""Linear layers under autocast, also on a CPU that would only emulate products in bf16, many times slower than in fp32.

There products run in fp32, while what comes in, goes out and is kept for the backward pass is in bf16 all the same, as
on a GPU; a weight is multiplied as it is. Rows are taken in portions, so that what is fp32 for a product's sake stays
in a core's cache, and no large blocks come and go between those that are kept (docs/lab-notes.md). The portions are
within operators of their own, or torch.compile would take them apart and keep in fp32 what is kept.

Shapes: N rows (any leading dimensions of a linear layer's input), D inputs, F outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.optim.precision import autocast_dtype, product_dtype_of

_ROWS = 512  # of a portion


def _portions(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS))


def _in_portions(x_ND: Tensor, matrix_DF: Tensor) -> Tensor:
    y_NF = x_ND.new_empty(x_ND.shape[0], matrix_DF.shape[1])
    for part in _portions(x_ND.shape[0]):
        y_NF[part] = x_ND[part].to(matrix_DF.dtype) @ matrix_DF
    return y_NF


def _rows_in_portions(grad_NF: Tensor, x_ND: Tensor, dtype: torch.dtype) -> Tensor:
    sum_FD = x_ND.new_zeros(grad_NF.shape[1], x_ND.shape[1], dtype=dtype)
    for part in _portions(x_ND.shape[0]):
        sum_FD.addmm_(grad_NF[part].to(dtype).t(), x_ND[part].to(dtype))
    return sum_FD


# Not `custom_op`, which takes 50 microseconds a call where this takes 10.
torch.library.define("groundup::product", "(Tensor x, Tensor matrix) -> Tensor")
torch.library.define("groundup::product_of_rows", "(Tensor grad, Tensor x, ScalarType dtype) -> Tensor")
torch.library.impl("groundup::product", "CPU", _in_portions)
torch.library.impl("groundup::product_of_rows", "CPU", _rows_in_portions)


torch.library.register_fake(
    "groundup::product", lambda x_ND, matrix_DF: x_ND.new_empty(x_ND.shape[0], matrix_DF.shape[1])
)
torch.library.register_fake(
    "groundup::product_of_rows",
    lambda grad_NF, x_ND, dtype: x_ND.new_empty(grad_NF.shape[1], x_ND.shape[1], dtype=dtype),
)


def product(x_ND: Tensor, matrix_DF: Tensor) -> Tensor:
    """x @ matrix, multiplied in the matrix's format, in the format of x."""
    if x_ND.dtype == matrix_DF.dtype:
        return x_ND @ matrix_DF
    y_NF: Tensor = torch.ops.groundup.product(x_ND, matrix_DF)
    return y_NF


def product_of_rows(grad_NF: Tensor, x_ND: Tensor, dtype: torch.dtype) -> Tensor:
    """grad.T @ x, [F, D], multiplied and given in `dtype`."""
    if grad_NF.dtype == x_ND.dtype == dtype:
        return grad_NF.t() @ x_ND
    sum_FD: Tensor = torch.ops.groundup.product_of_rows(grad_NF, x_ND, dtype)
    return sum_FD


class _InWeightsFormat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_FD: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_FD)
        return product(x_ND, weight_FD.t())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NF,) = grad_outputs
        x_ND, weight_FD = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad
        grad_x_ND = product(grad_NF, weight_FD) if need_x else None
        return grad_x_ND, product_of_rows(grad_NF, x_ND, weight_FD.dtype) if need_weight else None


def linear(x: Tensor, weight_FD: Tensor, bias_F: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias in autocast's format."""
    dtype = autocast_dtype(x)
    if product_dtype_of(x) == dtype:
        return F.linear(x, weight_FD, bias_F)
    with torch.autocast(x.device.type, enabled=False):
        x_ND = x.to(dtype).reshape(-1, x.shape[-1])
        y_NF: Tensor = _InWeightsFormat.apply(x_ND, weight_FD.float())
        if bias_F is not None:
            y_NF = y_NF + bias_F.to(dtype)
        return y_NF.view(*x.shape[:-1], weight_FD.shape[0])


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
