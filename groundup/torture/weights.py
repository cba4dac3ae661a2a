"""The final state of two trainings: weights and optimizer, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from groundup.rundir import RunDir
from groundup.torture.damage import complete
from groundup.train.checkpoint import load, shapes, verify
from groundup.train.manifest import Checkpoints
from groundup.train.storage import LocalStorage

# Of all weights together. Layouts round differently, by about 1e-7 of a gradient; Adam divides by the gradient's size,
# so that the few entries near zero may take another step. A lost moment or step makes ten times as much.
WEIGHT_TOLERANCE = 1e-4


def final_state(run: Path) -> dict[str, Tensor]:
    """The tensors of the newest checkpoint, whole. Raises CheckpointDamaged."""
    checkpoints = Checkpoints(LocalStorage(RunDir(run).checkpoints))
    step = complete(RunDir(run).checkpoints)[-1]
    verify(checkpoints, step)
    found = {
        name: torch.zeros(list(entry.size), dtype=entry.properties.dtype)
        for name, entry in shapes(checkpoints, step).items()
    }
    load(checkpoints, step, found)
    return found


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same to the bit."""
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found or name not in expected or not torch.equal(found[name], expected[name])
    )


def weight_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all weights, as a share of their norm. Infinite where they are not the same tensors."""
    names = [name for name in expected if name.startswith("model.")]
    if {name for name in found if name.startswith("model.")} != set(names):
        return float("inf")
    square = sum((found[name].double() - expected[name].double()).square().sum() for name in names)
    return float((square / sum(expected[name].double().square().sum() for name in names)) ** 0.5)
