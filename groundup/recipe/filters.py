"""Rules over tags, as a recipe writes them: which documents are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from groundup.recipe.base import Section
from groundup.recipe.positions import Path
from groundup.recipe.problem import Problem

# The presets in `groundup.data.filters.presets`.
Filter = Literal["gopher-quality", "gopher-repetition", "c4", "fineweb", "cjk-quality"]
Value = str | int | float | bool


class Condition(Section):
    """What a tag's value must be. Several keys: all of them must hold."""

    tag: str = Field(description="name of a statistic, of `language`, `language_score` or of a tag of your own")
    min: float | None = Field(None, description="at least this")
    max: float | None = Field(None, description="at most this")
    equal: Value | None = Field(None, description="exactly this")
    any_of: list[Value] | None = Field(None, description="one of these")
    none_of: list[Value] | None = Field(None, description="none of these")


class Rule(Condition):
    """A document is dropped where the condition does not hold."""

    name: str | None = Field(None, description="name in reports; default: made from the tag and the threshold")
    only: Condition | None = Field(None, description="the rule is for documents where this holds; default: for all")
    source: str = Field("", description="where the rule comes from")

    @property
    def label(self) -> str:
        """The name, or one made of the tag and what is asked of it: `words_min_50`."""
        if self.name is not None:
            return self.name
        asked = [key for key in ("min", "max", "equal", "any_of", "none_of") if getattr(self, key) is not None]
        values = [f"{key}_{getattr(self, key):g}" for key in asked if key in ("min", "max")]
        return "_".join([self.tag, *values, *(key for key in asked if key not in ("min", "max"))])


def rule_problems(rules: list[Rule], path: Path = ("data", "rules")) -> Iterator[Problem]:
    """What can't be in `data.rules`."""
    labels = [rule.label for rule in rules]
    for index, rule in enumerate(rules):
        if rule.label in labels[:index]:
            yield Problem((*path, index), f"a rule before is called {rule.label!r} too", "a name of its own per rule")
        for condition, place in ((rule, ()), (rule.only, ("only",))):
            if condition is not None:
                for key, what, expected in _flaws(condition):
                    yield Problem((*path, index, *place, key), what, expected)


def _flaws(condition: Condition) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, what is expected) of a condition that asks for nothing or for what can't be."""
    asked = [condition.min, condition.max, condition.equal, condition.any_of, condition.none_of]
    if all(value is None for value in asked):
        yield "tag", f"nothing is asked of {condition.tag!r}", "min, max, equal, any_of or none_of"
    if condition.min is not None and condition.max is not None and condition.min > condition.max:
        yield "min", f"{condition.min:g} is above max ({condition.max:g}): nothing fits", "min <= max"
    if condition.any_of is not None and not condition.any_of:
        yield "any_of", "is empty: nothing fits", "at least one value"
