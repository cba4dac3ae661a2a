"""Small corpora taken through the data step within the test's process."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from groundup import course
from groundup.data.documents import outcomes
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import load
from groundup.rundir import RunDir

WORDS = [
    *("harbour", "morning", "letter", "garden", "winter", "window", "captain", "village", "market", "river", "bridge"),
    *("stone", "silver", "candle", "journey", "orchard", "kitchen", "forest", "meadow", "station", "teacher", "island"),
    *("thunder", "blanket", "copper", "mirror", "saddle", "lantern", "pocket", "valley", "the", "to", "of", "and"),
    *("that", "with", "have", "be", "in", "for", "old", "new", "small", "bright", "slowly", "never", "often"),
]

# A model and its training, which tests of the data step hardly look at.
MODEL = """\
[tokenizer]
vocab_size = 300
[model]
hidden_size = 32
layers = 1
heads = 2
context_length = 64
[train]
duration = "3 steps"
batch_tokens = 256
sequence_length = 32
micro_batch = 4
threads = 1
trackers = []
"""
RECIPE = """\
name = "corpus"
task = "language-model"
[data]
sources = [{ path = "a.jsonl" }]
validation_fraction = 0.2
"""
RECIPE += MODEL


def passage(dice: random.Random, sentences: int = 14) -> str:
    """Sentences of words drawn at random, a line each."""
    lines = [" ".join(dice.choice(WORDS) for _ in range(12)).capitalize() + "." for _ in range(sentences)]
    return "\n".join(lines)


def passages(count: int, seed: int = 1, sentences: int = 14) -> list[str]:
    dice = random.Random(seed)
    return [passage(dice, sentences) for _ in range(count)]


def write(path: Path, texts: Iterable[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def prepare(folder: Path, *settings: str, recipe: Path | None = None) -> tuple[dict[str, Any], RunDir]:
    """The manifest and the run folder, of the recipe in `folder`. Raises UserError as the command does."""
    file = recipe or folder / "corpus.toml"
    if not file.exists():
        file.write_text(RECIPE)
    loaded, found = load(file, settings), RunDir(folder / "run")
    found.open(loaded)
    return course.prepare(loaded, found, executor="process").result, found


def language(folder: Path, *settings: str) -> LanguageRecipe:
    recipe = load(folder / "corpus.toml", settings).recipe
    assert isinstance(recipe, LanguageRecipe)
    return recipe


def reasons(run: RunDir) -> dict[str, str | None]:
    """Of each document why it was dropped."""
    return {row["id"]: row["reason"] for row in outcomes(run)}


def dropped(manifest: dict[str, Any], stage: str) -> dict[str, int]:
    found: dict[str, int] = next(entry["dropped"] for entry in manifest["stages"] if entry["name"] == stage)
    return found
