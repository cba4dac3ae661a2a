"""Muon: momentum whose every matrix step is made orthogonal (Jordan et al., 2024, "Muon: An optimizer for hidden
layers in neural networks"), scaled to AdamW's step size (Liu et al., arXiv:2502.16982, equation 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

# Quintic iteration x <- a x + b x^3 + c x^5 on the singular values; coefficients from Jordan et al.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalise(matrix_RC: Tensor) -> Tensor:
    """The nearest matrix with singular values around one; leading dimensions are a batch (stacked experts).

    Runs in bf16 on a GPU, in fp32 on a CPU, where bf16 products are slower.
    """
    x = matrix_RC.to(torch.bfloat16 if matrix_RC.device.type == "cuda" else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * (square @ square)) @ x
    result: Tensor = (x.mT if tall else x).to(matrix_RC.dtype)
    return result


class Whole(NamedTuple):
    """How a rank that holds a block of a parameter comes by the whole: `gather` puts together a tensor cut like the
    parameter, `mine` takes this rank's block of a whole one. Both are given the parameter."""

    gather: Callable[[Tensor, Tensor], Tensor]
    mine: Callable[[Tensor, Tensor], Tensor]


WHOLE = Whole(lambda parameter, tensor: tensor, lambda parameter, tensor: tensor)  # all is held here


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonal steps, decoupled weight decay. Parameters are matrices or stacks of matrices.

    Orthogonal steps need whole matrices: where parameters are cut over ranks, each gathers them and does the same work.
    Where `found_inf` is set to 1 a step changes nothing, as with torch's fused optimizers.
    """

    _step_supports_amp_scaling = True  # so torch's GradScaler sets found_inf rather than wait for the device

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float, whole: Whole = WHOLE
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.whole = whole

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there."""
        assert closure is None
        skip: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer: Tensor = state["momentum_buffer"]
                moved = buffer.lerp(parameter.grad, 1.0 - group["momentum"])
                direction = self.whole.gather(parameter, parameter.grad.lerp(moved, group["momentum"]))
                update = self.whole.mine(parameter, orthogonalise(direction))
                scale = 0.2 * max(direction.shape[-2:]) ** 0.5
                stepped = parameter.mul(1.0 - group["lr"] * group["weight_decay"])
                stepped.add_(update, alpha=-group["lr"] * scale)
                _replace(buffer, moved, skip)
                _replace(parameter, stepped, skip)


def _replace(old: Tensor, new: Tensor, skip: Tensor | None) -> None:
    """In place, but for where `skip` is 1; selected, since a product with 0 would keep a NaN."""
    old, new = (x.to_local() if isinstance(x, DTensor) else x for x in (old, new))
    old.copy_(new if skip is None else torch.where(skip > 0, old, new))
