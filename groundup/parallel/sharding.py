"""Data parallelism by FSDP2: shards of weights, gradients and optimizer state over the data and context ranks, copies
of them over the replicas, both in the hybrid form. Gradients are summed, never averaged: the loss is already divided by
the counted tokens of the whole step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import Shard

from groundup.models.experts import ExpertStack, Router
from groundup.parallel.mesh import Mesh
from groundup.recipe.parallel import Parallel


def shard_model(root: nn.Module, layers: nn.ModuleList, mesh: Mesh, parallel: Parallel, dtype: torch.dtype) -> None:
    """Shard `root` (a model, or a stage of it), its layers one by one. dtype: of the layers' gathered weights."""
    if mesh.size("replicate", "fsdp") == 1:
        return
    # Weights travel in the format of the products that take them; hidden states stay as they are in a single process,
    # fp32 between layers. So do embedding, last norm, output projection and routers.
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = exact if dtype == torch.float32 else replace(exact, param_dtype=dtype)
    # Pinned memory is for copies to a GPU that nobody waits for.
    offload = CPUOffloadPolicy(pin_memory=mesh.device.type == "cuda") if parallel.offload else OffloadPolicy()
    options: dict[str, Any] = {
        "reshard_after_forward": parallel.reshard_after_forward,
        "offload_policy": offload,
    }
    left_out: set[nn.Parameter] = set()
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, Router) and dtype != torch.float32:
                _wrap(module, mesh, "fsdp", mp_policy=exact, **options)
            if isinstance(module, ExpertStack) and mesh.layout.expert > 1:
                if mesh.size("replicate", "expert_data") == 1:
                    left_out.update(module.parameters())
                else:
                    _wrap(module, mesh, "expert_data", mp_policy=policy, **options)
        _wrap(layer, mesh, "fsdp", mp_policy=policy, ignored_params=left_out, **options)
    # The loss takes the output projection after the model's forward pass, so that stays gathered.
    options["reshard_after_forward"] = False
    _wrap(root, mesh, "fsdp", mp_policy=exact, ignored_params=left_out, **options)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _wrap(module: nn.Module, mesh: Mesh, over: str, reshard_after_forward: bool, **options: Any) -> None:
    if mesh.size(over) == 1:
        replicate(module, mesh=mesh.device_mesh("replicate"), **options)
        return
    dims = ("replicate", over) if mesh.size("replicate") > 1 else (over,)
    ranks = mesh.size(over)

    def placement(parameter: nn.Parameter) -> Shard | None:
        """Stacked experts are fewer than ranks where many ranks share them: cut them along a later dimension then."""
        if parameter.ndim == 3 and parameter.shape[0] % ranks and parameter.shape[1] % ranks == 0:
            return Shard(1)
        return None

    fully_shard(
        module,
        mesh=mesh.device_mesh(*dims),
        reshard_after_forward=reshard_after_forward,
        shard_placement_fn=placement,
        **options,
    )
