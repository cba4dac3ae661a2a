"""What the step `prepare` makes its result from: files found, and a fingerprint of all that the result depends on.

Whether prepared data is up to date is asked before each training, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from groundup.data.decontaminate.files import files_of, state
from groundup.data.execute.task import versions
from groundup.data.read.sources import SourceFile, named, resolve
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.errors import UserError
from groundup.recipe.language import Data, LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.rundir import fingerprint


def cache_folder() -> Path:
    """Where fetched archives are kept: $GROUNDUP_CACHE, or ~/.cache/groundup."""
    return Path(os.environ.get("GROUNDUP_CACHE") or Path.home() / ".cache" / "groundup")


def _recipe(loaded: LoadedRecipe) -> LanguageRecipe:
    assert isinstance(loaded.recipe, LanguageRecipe)
    return loaded.recipe


def find_files(loaded: LoadedRecipe) -> list[list[SourceFile]]:
    """The files of each source; archives are fetched now. Raises UserError where there is nothing."""
    sources = _recipe(loaded).data.sources
    if not sources:
        raise UserError(
            "the recipe names no source of text",
            where="data.sources",
            expected='at least one, for example sources = [{ path = "corpus/*.jsonl" }]',
        )
    return [resolve(source, loaded.base, cache_folder()) for source in named(sources)]


def inputs(loaded: LoadedRecipe, files: list[list[SourceFile]]) -> str:
    """Fingerprint of all that the step's result depends on. A file counts by name, size and time of change."""
    recipe = _recipe(loaded)
    tokenizer = Tokenizer(Path(recipe.tokenizer.path)).sha256 if recipe.tokenizer.path else None
    stats = [[(f.name, *f.state()) for f in group] for group in files]
    data = recipe.data.model_dump(exclude={"memory", "workers"})
    section = recipe.data.decontaminate
    evaluation = state(files_of(section, loaded.base)) if section is not None else None
    tokenizing = [recipe.tokenizer.model_dump(), tokenizer]
    return fingerprint([versions(), data, tokenizing, recipe.seed, stats, evaluation, _code(recipe.data, loaded.base)])


def _code(data: Data, base: Path) -> list[str]:
    """Changes with the files that the recipe's taggers are in."""
    if not data.taggers:
        return []
    from groundup.data.stages import filter

    return filter.code(data, base)


def check_length(length: int, manifest: dict[str, Any]) -> None:
    """Raise UserError where the training part is shorter than one sample."""
    tokens = manifest["splits"]["train"]["tokens"]
    if tokens < length + 1:
        raise UserError(
            f"a sample is {length} tokens long, but the train part has only {tokens}",
            where="train.sequence_length",
            expected=f"less than {tokens}",
            advice="Shorten it or add text",
        )
