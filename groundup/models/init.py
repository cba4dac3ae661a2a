"""Initial weights, the same in every layout: each element depends on the seed and its place in the named parameter."""

from __future__ import annotations

import torch

from groundup.models.decoder import Decoder
from groundup.random import fill_normal_, stream_key
from groundup.recipe.model import Model

# Projections into the residual stream start smaller, so that its variance does not grow with depth (GPT-2 report, 2.3).
_INTO_RESIDUAL = ("attention.output.weight", "ffn.down.weight", "ffn.down", "ffn.shared.down.weight")


@torch.no_grad()
def initialise(model: Decoder, seed: int) -> None:
    """Fill every parameter in place. Norms are one; matrices normal with `initializer_range`; no bias exists."""
    base = model.model.initializer_range
    for name, parameter in model.named_parameters():
        if "norm" in name.rsplit(".", 2)[-2]:
            parameter.fill_(1.0)
            continue
        residual = name.endswith(_INTO_RESIDUAL)
        std = base / (2 * model.model.layers) ** 0.5 if residual else base
        fill_normal_(parameter.data, stream_key(seed, name), std)


def build_decoder(model_section: Model, vocab_size: int, seed: int, device: torch.device | str) -> Decoder:
    """A decoder with initial weights, made on the device itself: nothing is allocated twice."""
    with torch.device("meta"):
        decoder = Decoder(model_section, vocab_size)
    decoder.to_empty(device=device)
    for module in decoder.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in ("cos_LK", "sin_LK"):
                buffer.zero_()
    decoder.reset_rotary(device)
    initialise(decoder, seed)
    return decoder
