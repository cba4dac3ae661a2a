"""Evaluate rules over tags: which documents are dropped, by which rule first, and why."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groundup.errors import UserError
from groundup.recipe.filters import Condition, Rule


class Verdict(NamedTuple):
    """What one rule says of one document. `applies`: False where the rule's `only` leaves the document out."""

    rule: str
    tag: str
    value: Any
    threshold: str
    applies: bool
    passed: bool


def decide(rules: Sequence[Rule], tags: pa.Table) -> pa.LargeStringArray:
    """The label of the first rule that drops each document, in the order of the rules; null: the document is kept.

    tags: one row per document. A rule doesn't drop where the tag's value is null or NaN, or where its `only` doesn't
    hold for sure (a value there is null). Raises UserError for an unknown tag and for a comparison with a value of
    another kind.
    """
    first = np.full(tags.num_rows, len(rules), np.int32)
    failing = [_fails(rule, tags) for rule in rules]
    for place in reversed(range(len(rules))):
        first[failing[place].to_numpy(zero_copy_only=False)] = place
    return pa.array([*(rule.label for rule in rules), None], pa.large_string()).take(pa.array(first))


def explain(rules: Sequence[Rule], row: dict[str, Any]) -> list[Verdict]:
    """What each rule says of the document whose tags are `row`, in the order of the rules.

    Raises UserError as `decide` does.
    """
    tags = pa.table({name: pa.array([value]) for name, value in row.items()})
    verdicts = []
    for rule in rules:
        dropped = _fails(rule, tags)[0].as_py()
        applies = rule.only is None or _holds(rule.only, tags, rule.label)[0].as_py() is True
        verdicts.append(Verdict(rule.label, rule.tag, row[rule.tag], threshold(rule), applies, not dropped))
    return verdicts


def threshold(condition: Condition) -> str:
    """What a condition asks for, to be read: `>= 50, <= 100000`."""
    parts = []
    if condition.min is not None:
        parts.append(f">= {condition.min:g}" if abs(condition.min) < 1e5 else f">= {condition.min:.0f}")
    if condition.max is not None:
        parts.append(f"<= {condition.max:g}" if abs(condition.max) < 1e5 else f"<= {condition.max:.0f}")
    if condition.equal is not None:
        parts.append(f"= {condition.equal}")
    if condition.any_of is not None:
        parts.append("one of " + ", ".join(str(v) for v in condition.any_of))
    if condition.none_of is not None:
        parts.append("none of " + ", ".join(str(v) for v in condition.none_of))
    return ", ".join(parts)


def _fails(rule: Rule, tags: pa.Table) -> pa.BooleanArray:
    """Where the rule drops; no nulls."""
    dropped = pc.invert(_holds(rule, tags, rule.label))
    if rule.only is not None:
        dropped = pc.and_kleene(dropped, _holds(rule.only, tags, rule.label))
    return pc.fill_null(dropped, False)


def _holds(condition: Condition, tags: pa.Table, label: str) -> pa.BooleanArray:
    """Where a condition holds; null where the value is null or NaN."""
    column = _column(condition.tag, tags, label)
    if pa.types.is_null(column.type):
        return pa.nulls(tags.num_rows, pa.bool_())
    holds = pa.repeat(True, tags.num_rows)
    try:
        if condition.min is not None:
            holds = pc.and_kleene(holds, pc.greater_equal(column, _threshold(condition.min, column)))
        if condition.max is not None:
            holds = pc.and_kleene(holds, pc.less_equal(column, _threshold(condition.max, column)))
        if condition.equal is not None:
            holds = pc.and_kleene(holds, pc.equal(column, condition.equal))
        if condition.any_of is not None:
            holds = pc.and_kleene(holds, pc.is_in(column, pa.array(condition.any_of, column.type)))
        if condition.none_of is not None:
            holds = pc.and_kleene(holds, pc.invert(pc.is_in(column, pa.array(condition.none_of, column.type))))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        raise UserError(
            f"the rule {label!r} compares {condition.tag!r} with a value of another kind: {threshold(condition)}",
            where="data.rules",
            expected=f"a value like those of the tag, which are {column.type}",
        ) from None
    return pc.if_else(pc.is_null(column, nan_is_null=True), pa.scalar(None, pa.bool_()), holds)


def _column(tag: str, tags: pa.Table, label: str) -> pa.Array:
    place = tags.schema.get_field_index(tag)
    if place < 0:
        near = difflib.get_close_matches(tag, tags.column_names, 1, 0.5)
        raise UserError(
            f"the rule {label!r} asks for the tag {tag!r}, and there is none of this name",
            where="data.rules",
            expected="one of " + ", ".join(tags.column_names),
            advice=f"Did you mean {near[0]!r}?" if near else "",
        )
    chunks = tags.column(place)
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()  # which would copy the one
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column


def _threshold(value: float, column: pa.Array) -> pa.Scalar:
    """As a number of the column's kind, so that a share stored as 0.1 in single precision isn't above 0.1."""
    return pa.scalar(value, column.type if pa.types.is_floating(column.type) else pa.float64())
