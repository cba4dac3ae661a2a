"""Initial weights, the same in every layout: each element depends on the seed and its place in the named parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from groundup.models.initial import Initial
from groundup.part import Part
from groundup.random import fill_normal_, fill_uniform_, stream_key


class Initialised(Protocol):
    """A model that knows how its parameters begin and remakes its buffers, which are lost on the meta device."""

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial: ...

    def reset_buffers(self, device: torch.device | str) -> None: ...


def fill(tensor: Tensor, initial: Initial, seed: int, name: str, part: Part | None = None) -> None:
    """Fill what a process holds of the parameter `name`."""
    if initial.kind == "constant":
        tensor.fill_(initial.value)
    elif initial.kind == "normal":
        fill_normal_(tensor, stream_key(seed, name), initial.value, part=part)
    else:
        fill_uniform_(tensor, stream_key(seed, name), initial.value, part=part)


@torch.no_grad()
def initialise(model: Initialised, named: Iterator[tuple[str, Tensor]], seed: int, parts: Mapping[str, Part]) -> None:
    """Fill the named parameters in place; `parts` tells which block of each is held, where it is not the whole."""
    for name, tensor in named:
        part = parts.get(name)
        shape = tuple(tensor.shape) if part is None else part.shape
        fill(tensor, model.initial(name, shape), seed, name, part)


def materialise(model: nn.Module, seed: int, device: torch.device | str) -> None:
    """Give a whole model on the meta device its memory and its initial values."""
    model.to_empty(device=device)
    model.reset_buffers(device)  # type: ignore[operator]
    initialise(model, ((n, p.data) for n, p in model.named_parameters()), seed, {})  # type: ignore[arg-type]
