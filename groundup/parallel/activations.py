"""Activation checkpointing: layers whose activations are computed again in the backward pass rather than kept
(Chen et al., arXiv:1604.06174), wholly or by operator."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    SAC_IGNORED_OPS,
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from groundup.recipe.parallel import Parallel

# Costly to compute, cheap to keep: matrix products and attention.
_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._grouped_mm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}

# Names that FSDP gives to stretches of its work in a profile; it does other work when a layer is computed again.
SAC_IGNORED_OPS.update(
    getattr(operator, overload)
    for operator in (torch.ops.profiler._record_function_enter_new, torch.ops.profiler._record_function_exit)
    for overload in operator.overloads()
)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operator in _KEPT or str(operator).startswith(("groundup.rotary_attention", "groundup.product"))
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _checkpointed(forward: Any, options: dict[str, Any], *args: Any) -> Any:
    """A frame of our own: torch.compile passes over `checkpoint` and all below it where that is the first it meets."""
    return checkpoint(forward, *args, **options)


def checkpoint_activations(layers: nn.ModuleList, parallel: Parallel) -> None:
    """Every n-th layer of the whole model, as the recipe says; a layer's name is its number there, in a stage too.
    Names of parameters stay as they are."""
    if parallel.activation_checkpointing == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if parallel.activation_checkpointing == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for name, layer in layers.named_children():
        if int(name) % parallel.checkpoint_every == 0:
            layer.forward = partial(_checkpointed, layer.forward, options)  # type: ignore[method-assign]
