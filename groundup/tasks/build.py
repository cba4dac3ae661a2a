"""The task of a recipe; each imports what it alone needs."""

from __future__ import annotations

from groundup.recipe.language import LanguageRecipe
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir
from groundup.tasks.task import Task


def build_task(recipe: Recipe, run: RunDir) -> Task:
    """Over the data prepared in `run`. Raises UserError where there is none."""
    if isinstance(recipe, TableRecipe):
        from groundup.tasks.classification import Classification

        return Classification(recipe, run)
    assert isinstance(recipe, LanguageRecipe)
    from groundup.tasks.language_model import LanguageModel

    return LanguageModel(recipe, run)
