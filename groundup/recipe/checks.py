"""Combinations that can't work, found before any work starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from groundup.recipe.language import LanguageRecipe
from groundup.recipe.language_checks import language_problems
from groundup.recipe.parallel_checks import parallel_problems
from groundup.recipe.problem import Problem
from groundup.recipe.quantities import Duration
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.recipe.table_checks import table_problems


def _schedule(recipe: Recipe) -> Iterator[Problem]:
    optim = recipe.optim
    if optim.schedule == "step" and optim.step_every is None:
        yield Problem(("optim", "step_every"), 'the schedule "step" needs it', 'a duration such as "30 epochs"')
    if optim.schedule != "step" and optim.step_every is not None:
        yield Problem(("optim", "step_every"), f'the schedule "{optim.schedule}" does not use it', 'schedule = "step"')
    if optim.schedule != "warmup-stable-decay" and optim.decay is not None:
        yield Problem(
            ("optim", "decay"),
            f'the schedule "{optim.schedule}" does not use it',
            'schedule = "warmup-stable-decay"',
        )
    for key, part in (("warmup", optim.warmup), ("decay", optim.decay)):
        if part is not None and _longer(part, recipe):
            whole = recipe.train.duration
            portions = (("train", "duration"), ("train", "batch_tokens"), ("train", "sequence_length"))
            yield Problem(
                ("optim", key), f"{part} is longer than the whole run ({whole})", f"at most {whole}", portions
            )


def _longer(part: Duration, recipe: Recipe) -> bool:
    """Whether a part is known to be longer than the run. How long an epoch is shows once the data is prepared."""
    whole, pace = recipe.train.duration, recipe.pace(None)
    if part.unit == whole.unit:
        return part.value > whole.value
    if "epochs" in (part.unit, whole.unit) or not pace.samples_per_step or pace.tokens_per_sample is None:
        return False
    return pace.steps(part) > pace.steps(whole)


def _place(recipe: Recipe) -> Iterator[Problem]:
    protocol, url, _ = (recipe.checkpoint.place or "").partition("://")
    if url:
        from fsspec.registry import known_implementations

        if protocol not in known_implementations:
            near = difflib.get_close_matches(protocol, known_implementations, 1, 0.5)
            expected = f"{near[0]}://..." if near else "a folder, or a URL such as s3://bucket/run"
            yield Problem(("checkpoint", "place"), f"no storage speaks {protocol!r}", expected)


def field_names(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys that hold values."""
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from field_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _tune(recipe: Recipe) -> Iterator[Problem]:
    fixed = ("tune.", "serve.", "parallel.", "name", "task")
    names = [name for name in field_names(recipe) if not name.startswith(fixed)]
    for key, dimension in recipe.tune.search.items():
        path = ("tune", "search", key)
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, 0.6)
            yield Problem(path, "there is no such key to search over", near[0] if near else "a key such as optim.lr")
        if dimension.choices is not None:
            if dimension.low is not None or dimension.high is not None or dimension.log:
                yield Problem(path, "has both choices and a range", "one of them")
            elif not dimension.choices:
                yield Problem(path, "has no choices", "at least one")
        elif dimension.low is None or dimension.high is None:
            yield Problem(path, "has neither a range nor choices", "low and high, or choices")
        elif dimension.low >= dimension.high:
            yield Problem(path, f"low ({dimension.low}) is not below high ({dimension.high})", "low < high")
        elif dimension.log and dimension.low <= 0:
            yield Problem(path, f"low is {dimension.low}, which has no logarithm", "low above 0, or log = false")


def impossible(recipe: Recipe) -> list[Problem]:
    """Every impossible combination in a recipe whose single values are right."""
    problems = [*_schedule(recipe), *_place(recipe), *_tune(recipe)]
    if isinstance(recipe, LanguageRecipe):
        problems += language_problems(recipe)
    if isinstance(recipe, TableRecipe):
        problems += table_problems(recipe)
    return [*problems, *parallel_problems(recipe)]
