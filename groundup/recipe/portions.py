"""How a step's samples are shared out: over data ranks, and into the micro-batches of each."""

from __future__ import annotations

from groundup.recipe.layout import Layout
from groundup.recipe.sections import Recipe


def samples_of_rank(recipe: Recipe, layout: Layout) -> int:
    """Samples of a full step that each data rank takes, fillers included."""
    return -(-recipe.samples_per_step // layout.data)


def microbatches(recipe: Recipe, layout: Layout) -> int:
    """Micro-batches of a step, the same on every data rank."""
    given = recipe.parallel.microbatches if layout.pipeline > 1 else None
    return given or -(-samples_of_rank(recipe, layout) // recipe.train.micro_batch)


def rows_of_microbatch(recipe: Recipe, layout: Layout) -> int:
    """Samples of a micro-batch in a pipeline, fillers included."""
    return -(-samples_of_rank(recipe, layout) // microbatches(recipe, layout))
