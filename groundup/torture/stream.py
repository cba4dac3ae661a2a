"""What the training stream holds, asked of the recipe's task itself."""

from __future__ import annotations

from functools import lru_cache

from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir
from groundup.tasks.build import build_task
from groundup.torture.samples import Digest
from groundup.train.planted import digest


def digest_of(recipe: Recipe, run: RunDir) -> Digest:
    """The hash of samples [start, stop), as ranks note it of what they are given."""
    task = build_task(recipe, run)

    @lru_cache(maxsize=4096)
    def found(start: int, stop: int) -> str:
        return digest(task.batch(start, stop))

    return found
