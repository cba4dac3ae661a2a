"""A training step and what it takes: memory by kind, collectives by kind and by mesh dimension."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.dry_run.trace import Collective, Trace, held_bytes
from groundup.optim.optimizers import state_tensors
from groundup.parallel.model import SAMPLES, TOKENS, ParallelModel
from groundup.recipe.sections import Recipe
from groundup.tasks.task import Task
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

Counts = dict[str, dict[str, int]]
# Dimensions of the mesh along which groups lie. "fsdp" is shard x context; "all" are all ranks.
_GROUPS = (
    *((dim,) for dim in ("tensor", "context", "shard", "replicate", "pipeline", "expert", "expert_data", "fsdp")),
    ("context", "tensor"),
    SAMPLES,
    TOKENS,
    (*TOKENS, "tensor"),
    ("pipeline", *TOKENS),
)


@dataclass(frozen=True)
class Seen:
    """What a step took on one rank. memory: bytes of weights, gradients, optimizer (state), activations (whatever else
    there was at the peak: gathered weights, buffers and temporaries too) and peak. collectives: count and bytes by
    kind, by the mesh dimension of their group."""

    memory: dict[str, int]
    by_dimension: dict[str, Counts]

    @property
    def collectives(self) -> Counts:
        """By kind alone."""
        total: Counts = {}
        for counts in self.by_dimension.values():
            for kind, count in counts.items():
                before = total.setdefault(kind, {"count": 0, "bytes": 0})
                for key in before:
                    before[key] += count[key]
        return dict(sorted(total.items()))

    def stretched(self, less: Seen, times: int, memory: bool) -> Seen:
        """With the difference from a shorter step added so many times; that of memory too, where it grows."""

        def further(more: dict[str, int], before: dict[str, int]) -> dict[str, int]:
            return {key: value + times * (value - before.get(key, 0)) for key, value in more.items()}

        return Seen(
            further(self.memory, less.memory) if memory else self.memory,
            {
                dim: {kind: further(n, less.by_dimension.get(dim, {}).get(kind, {})) for kind, n in counts.items()}
                for dim, counts in self.by_dimension.items()
            },
        )


def make_moments(state: TrainState) -> None:
    """Let the optimizers make their state, which they would at the first step only: a step with gradients of zero."""
    for _, parameter in state.model.named_parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def observed_step(
    state: TrainState, task: Task, recipe: Recipe, device: torch.device, elsewhere: Iterable[Tensor] = ()
) -> Seen:
    """One optimizer step, on real or fake tensors. The optimizers must have their state. elsewhere: tensors that are
    not in the memory that counts."""
    parameters = [p for chunk in state.model.chunks for p in chunk.parameters()]
    moments = [tensor for p in parameters for _, tensor in state_tensors(p, state.optimizers)]  # type: ignore[arg-type]
    buffers = [buffer for chunk in state.model.chunks for buffer in chunk.buffers()]
    with Trace([*parameters, *moments, *buffers], elsewhere) as trace:
        _, norm = compute_gradients(state, state.samples + recipe.samples_per_step, task, recipe, device)
        # FSDP may have moved the weights at its first forward pass, to where shards are padded to one size.
        weights, optimizer = held_bytes(parameters), held_bytes(moments)
        grads = [p.grad for p in parameters if p.grad is not None]
        gradients, at_peak, peak = held_bytes(grads), trace.held_at_peak(grads), trace.peak
        del grads
        update(state, norm, recipe, recipe.optim.lr, task)
    if trace.peak > peak:
        at_peak = gradients  # the update holds them all
    memory = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": trace.peak - weights - optimizer - at_peak,
        "peak": trace.peak,
    }
    return Seen(memory, _by_dimension(trace.collectives, state.model))


def _by_dimension(collectives: list[Collective], model: ParallelModel) -> dict[str, Counts]:
    """Apart by the mesh dimension whose ranks a group holds; where several hold the same, by the first named here."""
    if model.mesh is None:
        return {}
    mesh, names = model.mesh, dict[tuple[int, ...], str]()
    for dims in _GROUPS:
        names.setdefault(tuple(mesh.ranks(*dims)), " x ".join(dims))
    names.setdefault(tuple(model.tied_ranks), "tied embedding")
    names.setdefault(tuple(range(model.layout.world)), "all")
    apart: dict[str, list[Collective]] = defaultdict(list)
    for found in collectives:
        apart[names.get(found.ranks, f"{len(found.ranks)} ranks")].append(found)
    return {name: _counts(found) for name, found in sorted(apart.items())}


def _counts(collectives: list[Collective]) -> Counts:
    counts: Counts = {}
    for found in collectives:
        count = counts.setdefault(found.kind, {"count": 0, "bytes": 0})
        count["count"] += 1
        count["bytes"] += found.bytes
    return dict(sorted(counts.items()))
