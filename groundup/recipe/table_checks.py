"""Combinations that can't work in a recipe of a classifier."""

from __future__ import annotations

from collections.abc import Iterator

from groundup.recipe.problem import Problem
from groundup.recipe.table import TableRecipe


def table_problems(recipe: TableRecipe) -> Iterator[Problem]:
    for check in (_data, _train):
        yield from check(recipe)


def _data(recipe: TableRecipe) -> Iterator[Problem]:
    data = recipe.data
    if data.path.startswith("pypi:") and data.sha256 is None:
        yield Problem(
            ("data", "sha256"),
            f"{data.path} needs a pinned hash",
            'sha256 = "..." of the source archive, as the package index shows it',
            (("data", "path"),),
        )
    if data.path.startswith("hf://"):
        yield Problem(("data", "path"), f"{data.path} is no place for a table", "a file, folder, glob or pypi:")
    if data.test_fraction + data.validation_fraction >= 1:
        kept = f"{data.test_fraction} + {data.validation_fraction}"
        yield Problem(
            ("data", "test_fraction"),
            f"test and validation rows ({kept}) leave none to train on",
            "fractions that sum to less than 1",
            (("data", "validation_fraction"),),
        )
    if data.validation_fraction == 0 and recipe.evaluate.checkpoint == "best":
        yield Problem(
            ("data", "validation_fraction"),
            "without validation rows no checkpoint can be chosen as the best",
            'a fraction above 0, or evaluate.checkpoint = "last"',
            (("evaluate", "checkpoint"),),
        )
    for key in ("ignore", "categories"):
        if data.target in getattr(data, key):
            yield Problem(("data", key), f"{data.target!r} is the target", "columns of features", (("data", "target"),))
    if data.columns is not None and data.target not in data.columns:
        yield Problem(
            ("data", "target"), f"{data.target!r} is none of data.columns", "one of them", (("data", "columns"),)
        )


def _train(recipe: TableRecipe) -> Iterator[Problem]:
    train = recipe.train
    if train.batch_rows % train.micro_batch:
        legal = max(train.micro_batch, round(train.batch_rows / train.micro_batch) * train.micro_batch)
        yield Problem(
            ("train", "batch_rows"),
            f"{train.batch_rows} is no multiple of micro_batch ({train.micro_batch})",
            f"a multiple such as {legal}, or another train.micro_batch",
            (("train", "micro_batch"),),
        )
    durations = {
        ("train", "duration"): train.duration,
        ("train", "validate_every"): train.validate_every,
        ("checkpoint", "every"): recipe.checkpoint.every,
        ("checkpoint", "keep_every"): recipe.checkpoint.keep_every,
        ("optim", "warmup"): recipe.optim.warmup,
        ("optim", "decay"): recipe.optim.decay,
        ("optim", "step_every"): recipe.optim.step_every,
        ("tune", "duration"): recipe.tune.duration,
    }
    for path, duration in durations.items():
        if duration is not None and duration.unit == "tokens":
            yield Problem(path, f"{duration}: a table has no tokens", 'steps or epochs, such as "20 epochs"')
