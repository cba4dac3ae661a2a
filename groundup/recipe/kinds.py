"""Which recipe belongs to which task."""

from __future__ import annotations

from typing import Any

from groundup.recipe.language import LanguageRecipe
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe

RECIPES: dict[str, type[Recipe]] = {"language-model": LanguageRecipe, "classification": TableRecipe}


def recipe_type(document: dict[str, Any]) -> type[Recipe]:
    """By the document's task; a wrong one is found when the document is validated."""
    task = document.get("task", "language-model")
    return RECIPES.get(task, LanguageRecipe) if isinstance(task, str) else LanguageRecipe
