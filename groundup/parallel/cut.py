"""Cut parameters into blocks before a model gets its memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from groundup.part import Part, even_cut


@dataclass
class Cuts:
    """Which block of which parameter is held here. Parameters not named are whole.

    `parts`: the blocks by global name. `dims`: the mesh dimensions that cut each. `summed`: parameters whose gradients
    here are terms of a sum over the tensor ranks, since each of those sees other tokens or other heads.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    summed: set[str] = field(default_factory=set)

    def cut(self, model: nn.Module, name: str, dim: int, mesh_dim: str, pieces: int, index: int) -> None:
        """Replace the parameter `name` by its block along `dim`, still without memory."""
        owner_name, _, key = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        parameter = getattr(owner, key)
        part = self.parts.get(name) or Part.whole(tuple(parameter.shape))
        start, stop = even_cut(part.size[dim], pieces, index)
        self.parts[name] = part = part.cut(dim, start, stop)
        self.dims[name] = (*self.dims.get(name, ()), mesh_dim)
        setattr(owner, key, nn.Parameter(torch.empty(part.size, dtype=parameter.dtype, device="meta")))
