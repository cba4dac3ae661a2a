"""The device mesh: where a rank stands in a layout, and its groups along any of the mesh's dimensions.

Ranks are row-major over (pipeline, replicate, shard, context, tensor). `expert` is the inner part of shard x context
and `expert_data` the outer one. Weights are sharded over `fsdp`, which is shard x context: context ranks use the same
weights for different tokens. A group is made when it is first asked for, by all its members and by nobody else.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp
from torch.distributed.device_mesh import DeviceMesh

from groundup.recipe.layout import Layout


class Mesh:
    def __init__(self, layout: Layout, device: torch.device) -> None:
        assert layout.world == dist.get_world_size()
        self.layout, self.device, self.rank = layout, device, dist.get_rank()
        fsdp = layout.shard * layout.context
        outer = {"pipeline": layout.pipeline, "replicate": layout.replicate}
        experts = {"expert_data": fsdp // layout.expert, "expert": layout.expert}
        self._views: list[dict[str, int]] = [
            {**outer, "shard": layout.shard, "context": layout.context, "tensor": layout.tensor},
            {**outer, "fsdp": fsdp, "tensor": layout.tensor},
            {**outer, **experts, "tensor": layout.tensor},
        ]
        self._groups: dict[tuple[int, ...], ProcessGroup] = {}

    def _seen_as(self, dims: tuple[str, ...]) -> dict[str, int]:
        return next(view for view in self._views if all(dim in view for dim in dims))

    def size(self, *dims: str) -> int:
        view = self._seen_as(dims)
        return math.prod(view[dim] for dim in dims)

    def index(self, dim: str) -> int:
        """This rank's place along a dimension."""
        view = self._seen_as((dim,))
        return int(np.unravel_index(self.rank, tuple(view.values()))[list(view).index(dim)])

    def ranks(self, *dims: str) -> list[int]:
        """Ranks that differ from this one along the named dimensions only, in the mesh's order."""
        view = self._seen_as(dims)
        grid = np.arange(self.layout.world).reshape(tuple(view.values()))
        place = np.unravel_index(self.rank, grid.shape)
        index = tuple(slice(None) if dim in dims else int(at) for dim, at in zip(view, place, strict=True))
        return [int(rank) for rank in grid[index].ravel()]

    def group(self, *dims: str) -> ProcessGroup:
        return self.group_of(self.ranks(*dims))

    def group_of(self, ranks: list[int]) -> ProcessGroup:
        """All its members must call this at the same time."""
        key = tuple(ranks)
        if key not in self._groups:
            if len(ranks) == self.layout.world:
                self._groups[key] = dist.distributed_c10d._get_default_group()
            else:
                self._groups[key] = dist.new_group(ranks, use_local_synchronization=True)
        return self._groups[key]

    def device_mesh(self, *dims: str) -> DeviceMesh:
        """torch's mesh of one or two dimensions, for FSDP."""
        ranks = torch.tensor(self.ranks(*dims)).view([self.size(dim) for dim in dims])
        groups = [self.group(dim) for dim in dims]
        return DeviceMesh.from_group(
            groups if len(dims) > 1 else groups[0], self.device.type, mesh=ranks, mesh_dim_names=dims
        )

    def sum_(self, tensor: Tensor, *dims: str) -> Tensor:
        """Sum in place over the ranks along the dimensions."""
        if self.size(*dims) > 1:
            dist.all_reduce(tensor, ReduceOp.SUM, self.group(*dims))
        return tensor
