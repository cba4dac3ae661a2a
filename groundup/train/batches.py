"""Which documents the batch of a training step held, worked out again from the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from groundup.errors import UserError
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir
from groundup.tasks.build import build_task
from groundup.train.loop import next_end
from groundup.train.manifest import CheckpointDamaged, checkpoints_of


@dataclass
class _Place:
    """What the stream of batches depends on of a training's state."""

    samples: int
    dropped: list[tuple[int, int]]


def batch_of_step(recipe: Recipe, run: RunDir, step: int) -> dict[str, Any]:
    """The samples [start, stop) of a step, counted from 1, and their documents; `dropped` where they were left out.

    A step that wasn't trained yet will hold them unless bad steps before it change that. Raises UserError where the
    training is not that long.
    """
    task = build_task(recipe, run)
    pace = recipe.pace(task.samples_per_epoch)
    total = pace.steps(recipe.train.duration)
    if not 1 <= step <= total:
        raise UserError(f"there is no step {step}", where=str(run.path), expected=f"1 to {total}")
    place, start, dropped = _Place(0, _dropped(recipe, run)), 0, False
    for _ in range(step):
        start = place.samples
        place.samples, dropped = next_end(place, pace, pace.samples(total))
    return {
        "step": step,
        "samples": [start, place.samples],
        "dropped": dropped,
        "documents": task.origins(start, place.samples),
    }


def _dropped(recipe: Recipe, run: RunDir) -> list[tuple[int, int]]:
    """Samples left out after bad steps, as the newest checkpoint knows."""
    checkpoints = checkpoints_of(recipe, run)
    for step in reversed(checkpoints.complete()):
        try:
            return [(start, stop) for start, stop in checkpoints.manifest(step).get("dropped", ())]
        except CheckpointDamaged:
            continue
    return []


def as_text(batch: dict[str, Any]) -> str:
    """For a person."""
    first, stop = batch["samples"]
    head = f"step {batch['step']}: samples {first} to {stop - 1}" + (" (dropped)" if batch["dropped"] else "")
    return "\n".join([head, *("  " + "  ".join(str(v) for v in entry.values()) for entry in batch["documents"])])
