"""The search space: the recipe's `tune.search` as Optuna's suggestions, and a recipe with suggested values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from groundup.errors import UserError
from groundup.recipe.checks import impossible
from groundup.recipe.sections import Dimension, Recipe
from groundup.recipe.show import dotted, values

if TYPE_CHECKING:
    from optuna import Trial

Search = dict[str, Dimension]


class ImpossibleValues(Exception):
    """Values that don't go together, or that the recipe's types refuse."""


def assigned(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """A copy with values at dotted keys. Raises pydantic's ValidationError."""
    document = values(recipe)
    for key, value in given.items():
        *sections, name = key.split(".")
        node = document
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return type(recipe).model_validate(document)


def candidate(recipe: Recipe, given: dict[str, Any]) -> Recipe:
    """The recipe of a trial, `tune.duration` long. Raises ImpossibleValues with all reasons."""
    duration = recipe.tune.duration
    length = {} if duration is None else {"train.duration": str(duration)}
    try:
        made = assigned(recipe, length | given)
    except ValidationError as error:
        reasons = [f"{dotted(e['loc'])}: {_message(e['msg'])}" for e in error.errors(include_url=False)]
        raise ImpossibleValues("; ".join(reasons)) from None
    problems = impossible(made)
    if problems:
        raise ImpossibleValues("; ".join(f"{dotted(p.path)}: {p.what}" for p in problems))
    return made


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")


def check(recipe: Recipe) -> None:
    """Raises UserError where nothing is searched, where a bound or a choice is no value of its key, or where the
    recipe can't be trained for `tune.duration`."""
    search = recipe.tune.search
    if not search:
        raise UserError(
            "the recipe names nothing to search over",
            where="tune.search",
            expected='at least one range, for example tune.search."optim.lr" = {low = 1e-4, high = 1e-2, log = true}',
        )
    for key, dimension in search.items():
        ends = [dimension.low, dimension.high] if dimension.choices is None else dimension.choices
        for value in ends:
            try:
                assigned(recipe, {key: value})
            except ValidationError as error:
                # What two keys together make wrong is left to the trials: the other may be searched too.
                path = tuple(key.split("."))
                wrong = [e["msg"] for e in error.errors(include_url=False) if e["loc"][: len(path)] == path]
                if wrong:
                    what = f"{value!r} is no value of {key}: {_message(wrong[0])}"
                    raise UserError(what, where=f'tune.search."{key}"') from None
    try:
        candidate(recipe, {})
    except ImpossibleValues as error:
        if recipe.tune.duration is not None and "train.duration" not in search:
            raise UserError(
                f"a trial of {recipe.tune.duration} can't be trained: {error}", where="tune.duration"
            ) from None


def suggest(trial: Trial, search: Search) -> dict[str, Any]:
    """Values for every key; the same again for a trial that has them already."""
    return {key: _suggest(trial, key, dimension) for key, dimension in search.items()}


def _suggest(trial: Trial, key: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        # Optuna's categories are scalars, a recipe's values may be lists.
        return json.loads(trial.suggest_categorical(key, [json.dumps(c) for c in dimension.choices]))
    low, high = dimension.low, dimension.high
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=dimension.log)
    return trial.suggest_float(key, float(low), float(high), log=dimension.log)


def decoded(search: Search, parameters: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values from Optuna's parameters."""
    return {key: json.loads(v) if search[key].choices is not None else v for key, v in parameters.items()}


def encoded(search: Search, given: dict[str, Any]) -> dict[str, Any]:
    """Optuna's parameters from a recipe's values; those outside of their range are left out."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        dimension = search[key]
        if dimension.choices is not None:
            if value in dimension.choices:
                found[key] = json.dumps(value)
            continue
        low, high = dimension.low, dimension.high
        assert low is not None
        assert high is not None
        whole = isinstance(low, int) and isinstance(high, int)
        if isinstance(value, int if whole else int | float) and low <= value <= high:
            found[key] = value if whole else float(value)
    return found


def current(recipe: Recipe) -> dict[str, Any]:
    """The recipe's own values of the keys that are searched."""
    found: dict[str, Any] = {}
    for key in recipe.tune.search:
        node: Any = values(recipe)
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        found[key] = node
    return found
