"""What this machine can do, measured."""

from __future__ import annotations

import time

import torch


def _product_flops(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of one square matrix product."""
    a = torch.randn(side, side, device=device).to(dtype)
    start = time.perf_counter()
    torch.mm(a, a)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 2 * side**3 / (time.perf_counter() - start)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of a few large matrix products: what a share of peak is held against."""
    _product_flops(256, device, dtype)  # the first call sets things up
    rough = _product_flops(512, device, dtype)
    # Large enough for full speed, small enough that a format without kernels does not take minutes.
    side = 8192 if device.type == "cuda" else min(1536, max(512, int((rough * 0.05) ** (1 / 3)) // 64 * 64))
    return max(rough, *(_product_flops(side, device, dtype) for _ in range(4)))
