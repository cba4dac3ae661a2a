"""The target column: class ids while rows are read, and labels of the values' own type at the end."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundup.data.table.kinds import trimmed
from groundup.errors import UserError
from groundup.recipe.table import TableData

_INTEGER = re.compile(r"0|[+-]?[1-9][0-9]{0,999}")
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUTH = {"true": True, "false": False}


def target_texts(column: pa.Array, data: TableData) -> pa.Array:
    """The values as strings without blanks around them; null where there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return trimmed(column.cast(pa.string()), data)


class Target:
    """The classes found so far. `kind`: the type of a Parquet column; None for a CSV file, where the values tell."""

    def __init__(self, data: TableData, kind: pa.DataType | None) -> None:
        self.data = data
        self.kind = kind
        self.texts: dict[str, int] = {}

    def codes(self, texts: pa.Array) -> NDArray[np.int32]:
        """A number for each value, -1 where there is none. Raises UserError above data.max_classes values."""
        coded = texts.dictionary_encode()
        own = [self.texts.setdefault(text, len(self.texts)) for text in coded.dictionary.to_pylist()]
        if len(self.texts) > self.data.max_classes:
            raise self._regression(f"has more than {self.data.max_classes:,} distinct values")
        codes: NDArray[np.int32] = np.array([*own, -1], np.int32)[
            coded.indices.fill_null(len(own)).to_numpy(zero_copy_only=False)
        ]
        return codes

    def classes(self) -> tuple[list[Any], NDArray[np.int32]]:
        """The labels, sorted, and for each number that `codes` gave its place among them.

        Raises UserError where the values are fractions, and where there are not two classes.
        """
        values = self._values()
        labels = sorted(set(values))
        if len(labels) < 2:
            raise UserError(
                f"the target {self.data.target!r} has only one value: {labels[0]!r}"
                if labels
                else f"the target {self.data.target!r} has no value",
                where="data.target",
                expected="at least two classes",
            )
        place = {label: n for n, label in enumerate(labels)}
        return labels, np.array([place[v] for v in values], np.int32)

    def _values(self) -> list[Any]:
        texts = list(self.texts)
        types = pa.types
        if self.kind is not None:
            if types.is_boolean(self.kind):
                return [text == "true" for text in texts]
            if types.is_integer(self.kind):
                return [int(text) for text in texts]
            if types.is_decimal(self.kind):
                exact = [Decimal(text) for text in texts]
                whole = all(value == value.to_integral_value() for value in exact)
                return [int(value) for value in exact] if whole else self._floats(texts)
            return self._floats(texts) if types.is_floating(self.kind) else list(texts)
        if all(_INTEGER.fullmatch(text) for text in texts):
            return [int(text) for text in texts]
        if all(text.lower() in _TRUTH for text in texts):
            return [_TRUTH[text.lower()] for text in texts]
        if all(_FLOAT.fullmatch(text) for text in texts) and not any(re.match(r"[+-]?0[0-9]", t) for t in texts):
            return self._floats(texts)
        return texts

    def _floats(self, texts: list[str]) -> list[float]:
        values = [float(text) for text in texts]
        for value, text in zip(values, texts, strict=True):
            if not value.is_integer():
                raise self._regression(f"holds fractions such as {text}")
        return values

    def _regression(self, what: str) -> UserError:
        return UserError(
            f"the target {self.data.target!r} {what}. Is this a regression?",
            where="data.target",
            expected=f"a column of at most {self.data.max_classes:,} classes",
            advice="Choose another target, put its values into classes, or raise data.max_classes",
        )
