"""From the recipe to torch optimizers over the right groups of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from groundup.optim.muon import WHOLE, Muon, Whole
from groundup.recipe.optim import Optim


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices: not for norms and biases (vectors) nor embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """What Muon is for: matrices between the embedding and the output projection, routers left out."""
    return name.startswith("layers.") and parameter.ndim >= 2 and "router" not in name


def _groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Decayed and not; and sharded and not, which no kernel takes together. Without decay one group will do, so that
    its update is one kernel."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        decayed = bool(weight_decay) and is_decayed(name, parameter)
        groups.setdefault((decayed, isinstance(parameter, DTensor)), []).append(parameter)
    return [
        {"params": found, "weight_decay": weight_decay if decayed else 0.0}
        for (decayed, _), found in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


@cache
def _let_sgd_have_shards() -> None:
    """torch 2.13 knows of the fused kernels of Adam that they work shard by shard, and not of SGD's
    (torch/distributed/tensor/_ops/_pointwise_ops.py)."""
    from torch.distributed.tensor._ops._pointwise_ops import _register_single_dim_pointwise

    _register_single_dim_pointwise(torch.ops.aten._fused_sgd_.default)


def build_optimizers(
    parameters: Iterable[tuple[str, nn.Parameter]], optim: Optim, whole: Whole = WHOLE
) -> list[torch.optim.Optimizer]:
    """One optimizer, or two under muon. Fused kernels where torch has them. whole: how Muon comes by whole matrices."""
    named = [(n, p) for n, p in parameters if p.requires_grad]
    beta1, beta2 = optim.betas

    def adam(kind: type[torch.optim.Adam], named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        groups = _groups(named, optim.weight_decay)
        return kind(groups, lr=optim.lr, betas=(beta1, beta2), eps=optim.eps, fused=True)

    if optim.optimizer == "sgd":
        _let_sgd_have_shards()
        groups = _groups(named, optim.weight_decay)
        return [torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=True)]
    if optim.optimizer == "adam":
        return [adam(torch.optim.Adam, named)]
    if optim.optimizer == "adamw":
        return [adam(torch.optim.AdamW, named)]
    hidden = [(n, p) for n, p in named if is_hidden_matrix(n, p)]
    rest = [(n, p) for n, p in named if not is_hidden_matrix(n, p)]
    # A stage of a pipeline may hold only the one kind.
    found: list[torch.optim.Optimizer] = []
    if hidden:
        groups = _groups(hidden, optim.weight_decay)
        found.append(Muon(groups, optim.lr, optim.momentum, optim.weight_decay, whole))
    if rest:
        found.append(adam(torch.optim.AdamW, rest))
    return found


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, skip: Tensor | None) -> None:
    """One step; none where `skip` is 1 (fp32 scalar on the device), which nobody waits for."""
    if isinstance(optimizer, torch.optim.SGD) and not optimizer.state:
        _make_momentum(optimizer)
    if skip is not None and not scaler.is_enabled():
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        return
    if skip is not None:
        for flag in scaler._found_inf_per_device(optimizer).values():
            torch.maximum(flag, skip, out=flag)
    scaler.step(optimizer)


def _make_momentum(optimizer: torch.optim.SGD) -> None:
    """Of zeros, from which a first step comes to the same. torch leaves it undefined where the first step is skipped
    (torch/optim/sgd.py, `_fused_sgd`)."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def state_tensors(parameter: nn.Parameter, optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """The optimizers' state of a parameter by its own name."""
    for optimizer in optimizers:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield key, value
