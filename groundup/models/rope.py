"""Rotary position embeddings (Su et al., 2021, arXiv:2104.09864), with Llama 3's scaling.

Shapes: B batch, L sequence, H heads, K width of a head. Halves are rotated against each other, as in Hugging Face's
Llama, so that weights carry over unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundup.recipe.model import Model, RopeScaling


def _stretch(frequency_K: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3's rule: long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""
    wavelength_K = 2 * math.pi / frequency_K
    turns_K = scaling.original_context_length / wavelength_K
    share_K = (turns_K - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share_K = share_K.clamp(0.0, 1.0)
    return frequency_K * (share_K + (1.0 - share_K) / scaling.factor)


def rotary_table(model: Model, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosine and sine, each fp32 [length, K / 2]."""
    assert model.head_dim is not None
    exponent_K = torch.arange(0, model.head_dim, 2, dtype=torch.float32, device=device) / model.head_dim
    frequency_K = 1.0 / model.rope_theta**exponent_K
    if model.rope_scaling is not None:
        frequency_K = _stretch(frequency_K, model.rope_scaling)
    angle_LK = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequency_K
    return angle_LK.cos(), angle_LK.sin()


def rotate(x_BLHK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
    """Rotate each head by its position's angle. cos, sin: [L, K / 2], or [B, L, K / 2] where rows differ."""
    cos, sin = cos_LK.unsqueeze(-2), sin_LK.unsqueeze(-2)
    first, second = x_BLHK.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BLHK.dtype)
