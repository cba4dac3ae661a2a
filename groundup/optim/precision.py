"""Number formats of matrix products, as the recipe asks and as the hardware can."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def _cpu_has_bf16() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


CPU_HAS_BF16 = _cpu_has_bf16()
"""Whether this CPU has instructions for bf16 products. Without them torch's are many times slower than fp32's."""

_FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def product_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The format matrix products run in: for bf16 it is fp32 on a CPU that would only emulate it."""
    return _multiplied(_FORMATS[precision], device)


def _multiplied(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 and device.type == "cpu" and not CPU_HAS_BF16 else dtype


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context a forward pass runs in."""
    dtype = _FORMATS[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The format autocast gives what products make of x; x's own where it is off."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else x.dtype


def product_dtype_of(x: Tensor) -> torch.dtype:
    """The format products of x are to run in under the autocast that is on: its own, or fp32 where that is emulated."""
    return _multiplied(autocast_dtype(x), x.device)


def gradient_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose small gradients would vanish; does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def update_scale(scaler: torch.amp.GradScaler, skip: Tensor | None) -> None:
    """After a step; where `skip` is 1 the scale stays what it was before."""
    if skip is None or not scaler.is_enabled():
        scaler.update()
        return
    assert scaler._scale is not None
    assert scaler._growth_tracker is not None
    before = [(tensor, tensor.clone()) for tensor in (scaler._scale, scaler._growth_tracker)]
    scaler.update()
    for tensor, old in before:
        tensor.copy_(torch.where(skip > 0, old, tensor))


def share_found_infinite(
    scaler: torch.amp.GradScaler, optimizers: list[torch.optim.Optimizer], largest: Callable[[Tensor], Tensor]
) -> None:
    """Where one rank met a gradient that is not finite, all skip the step. `largest` is the largest over ranks."""
    if not scaler.is_enabled():
        return
    found = [flag for optimizer in optimizers for flag in scaler._found_inf_per_device(optimizer).values()]
    shared = largest(torch.stack([flag.reshape(()) for flag in found]).max())
    for flag in found:
        flag.fill_(shared)
