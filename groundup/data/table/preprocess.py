"""What turns a raw row into features: learnt from the training rows, kept as JSON, and served with the model.

Shapes: B rows, F features, N columns of numbers or booleans, K columns of categories.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from groundup.errors import UserError

UNSEEN, MISSING = -1, -2  # codes of a category that was not in training, and of none
_AMBIGUOUS = -3
VERSION = 2
_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d{1,9})?")
_TRUTH = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One column of the table and how it is encoded.

    `kind`: number, boolean or category. A number or boolean x becomes the feature (x - `mean`) / `scale`. A category
    becomes one feature for each of `categories`, and with `other` one more for all the rest. `fill` stands in for a
    missing value: a number (booleans: 0 or 1), or one of the categories, or None where nothing may be missing.
    `notation`: how a number may be written as a text, as `notation.EXPECTED` names it.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0
    fill: float | str | None = None
    categories: list[str] = field(default_factory=list)
    other: bool = False
    notation: str = "number"

    @property
    def width(self) -> int:
        """Features it becomes."""
        return len(self.categories) + self.other if self.kind == "category" else 1

    @property
    def feature_names(self) -> list[str]:
        if self.kind != "category":
            return [self.name]
        return [f"{self.name}={c}" for c in self.categories] + ([f"{self.name}=(other)"] if self.other else [])


def _meaning(value: Any) -> Decimal | str | None:
    """The number or truth value that a value or a text is, however it is spelled; None where it is neither. A zero
    before other digits makes it a name."""
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def missing_numbers(missing_values: Sequence[str], decimal: str) -> frozenset[float]:
    """The numbers among the texts that stand for a missing value, such as -999."""
    plain = (text if decimal == "." else text.replace(",", ".") for text in missing_values)
    return frozenset(float(text) for text in plain if _NUMBER.fullmatch(text.strip()))


def _meanings(categories: list[str]) -> dict[Decimal | str, int]:
    """The code of each category that is a number or a truth value; `_AMBIGUOUS` where several are the same one."""
    found: dict[Decimal | str, int] = {}
    for code, text in enumerate(categories):
        if (meaning := _meaning(text)) is not None:
            found[meaning] = _AMBIGUOUS if meaning in found else code
    return found


class Preprocessor:
    """The encoding of a table's columns (in training order; without the target and the ignored ones).

    `classes`: the labels, the index being the class id. `imputes`: whether a missing value is filled in; if not, it
    is an error. `infinite_missing`: whether an infinite value counts as a missing one; if not, it is an error.
    `missing_values`, `decimal`: what a missing value looks like in the table's files, and their decimal point.
    """

    def __init__(
        self,
        columns: list[Column],
        target: str,
        classes: list[Any],
        *,
        ignored: list[str] | None = None,
        imputes: bool = False,
        infinite_missing: bool = False,
        missing_values: Sequence[str] = (),
        decimal: str = ".",
    ) -> None:
        self.missing_values, self.decimal = list(missing_values), decimal
        self.columns, self.target, self.classes, self.ignored = columns, target, classes, ignored or []
        self.imputes, self.infinite_missing = imputes, infinite_missing
        self.numeric = [c for c in columns if c.kind != "category"]
        self.categorical = [c for c in columns if c.kind == "category"]
        ends = np.cumsum([c.width for c in columns])
        self.width = int(ends[-1]) if columns else 0
        starts = {c.name: int(end) - c.width for c, end in zip(columns, ends, strict=True)}
        self._numeric_places = np.array([starts[c.name] for c in self.numeric], np.int64)
        self._categorical_places = [starts[c.name] for c in self.categorical]
        self._codes = {c.name: {text: code for code, text in enumerate(c.categories)} for c in self.categorical}
        self._meanings = {c.name: _meanings(c.categories) for c in self.categorical}
        self._fill_N = np.array([np.nan if c.fill is None else float(c.fill) for c in self.numeric])
        self.mean_F, self.scale_F = np.zeros(self.width), np.ones(self.width)
        self.mean_F[self._numeric_places] = [c.mean for c in self.numeric]
        self.scale_F[self._numeric_places] = [c.scale for c in self.numeric]

    @property
    def feature_names(self) -> list[str]:
        return [name for column in self.columns for name in column.feature_names]

    def encode(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Features float32 [B, F], scaled.

        `columns`: by name, one array of B values each. Numbers: float64, NaN where missing. Booleans: true and false,
        as such or as text. Categories: text, and where that spells a number or a truth value also the value itself.
        None stands for a missing boolean or category. Columns that are no features are passed over. Raises UserError
        that names column and row (from 0) where a value is missing and can't be filled in, is infinite, is no truth
        value, or may be either of two categories; KeyError where a column is missing.
        """
        return self.scaled(self.raw_features(columns))

    def raw_features(self, columns: Mapping[str, NDArray[Any]]) -> Doubles:
        """Features float64 [B, F] before scaling: encode == ((raw - mean_F) / scale_F) as float32."""
        rows = len(next(iter(columns.values()))) if columns else 0
        numbers_BN = np.empty((rows, len(self.numeric)))
        for n, column in enumerate(self.numeric):
            values = columns[column.name]
            numbers_BN[:, n] = values if column.kind == "number" else _truths(column.name, values)
        codes = [self._codes_of(column.name, columns[column.name]) for column in self.categorical]
        return self.assemble(numbers_BN, codes)

    def scaled(self, raw_BF: Doubles) -> NDArray[np.float32]:
        """Raw features scaled; float32."""
        return ((raw_BF - self.mean_F) / self.scale_F).astype(np.float32)

    def assemble(self, numbers_BN: Doubles, codes: list[NDArray[np.int64]]) -> Doubles:
        """Raw features [B, F] from the values of `numeric` (NaN: missing) and, for each column of `categorical`, its
        codes [B] (places in `categories`, `UNSEEN` or `MISSING`). Raises UserError as `encode` does."""
        numbers_BN = self._filled(numbers_BN)
        if not self.categorical:
            return numbers_BN
        raw_BF = np.zeros((len(numbers_BN), self.width))
        raw_BF[:, self._numeric_places] = numbers_BN
        for column, start, codes_B in zip(self.categorical, self._categorical_places, codes, strict=True):
            missing_B = codes_B == MISSING
            if missing_B.any():
                if column.fill is None:
                    raise _missing(column.name, int(missing_B.argmax()))
                codes_B = np.where(missing_B, self._codes[column.name].get(str(column.fill), UNSEEN), codes_B)
            if column.other:
                codes_B = np.where(codes_B == UNSEEN, len(column.categories), codes_B)
            (seen,) = np.nonzero(codes_B >= 0)
            raw_BF[seen, start + codes_B[seen]] = 1.0
        return raw_BF

    def _filled(self, numbers_BN: Doubles) -> Doubles:
        """Without missing values; UserError where that can't be."""
        finite_BN = np.isfinite(numbers_BN)
        if finite_BN.all():
            return numbers_BN
        if not self.infinite_missing and (infinite_BN := np.isinf(numbers_BN)).any():
            row, n = np.argwhere(infinite_BN)[0]
            raise UserError(
                "the value is infinite", where=f"column {self.numeric[n].name!r}, row {row}", expected="a finite number"
            )
        filled_BN = np.where(finite_BN, numbers_BN, self._fill_N)
        if np.isnan(filled_BN).any():
            row, n = np.argwhere(np.isnan(filled_BN))[0]
            raise _missing(self.numeric[n].name, int(row))
        return filled_BN

    def _codes_of(self, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
        codes, meanings = self._codes[name], self._meanings[name]

        def code(value: Any) -> int:
            if value is None:
                return MISSING
            if isinstance(value, str):
                return codes.get(value.strip(), UNSEEN)
            meaning = _meaning(value)
            return UNSEEN if meaning is None else meanings.get(meaning, UNSEEN)

        found = np.array([code(value) for value in values], np.int64)
        if (found == _AMBIGUOUS).any():
            row = int((found == _AMBIGUOUS).argmax())
            same = [text for text in codes if _meaning(text) == _meaning(values[row])]
            raise UserError(
                f"{values[row]} may be any of {', '.join(map(repr, same))}",
                where=f"column {name!r}, row {row}",
                expected="the category as a text",
            )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "target": self.target,
            "classes": self.classes,
            "ignored": self.ignored,
            "imputes": self.imputes,
            "infinite_missing": self.infinite_missing,
            "missing_values": self.missing_values,
            "decimal": self.decimal,
            "columns": [asdict(column) for column in self.columns],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            [Column(**column) for column in document["columns"]],
            document["target"],
            document["classes"],
            ignored=document["ignored"],
            imputes=document["imputes"],
            infinite_missing=document["infinite_missing"],
            missing_values=document["missing_values"],
            decimal=document["decimal"],
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """From the file preprocess.json. Raises UserError where it is missing or is none."""
        try:
            document = json.loads(path.read_bytes())
            if document["version"] != VERSION:
                raise UserError(f"its version is {document['version']}", where=str(path), expected=f"version {VERSION}")
            return cls.from_json(document)
        except FileNotFoundError:
            raise UserError("is not there", where=str(path), advice="Prepare or export again") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"is damaged: {error}", where=str(path), advice="Prepare or export again") from None


def _truths(name: str, values: NDArray[Any]) -> Doubles:
    """0, 1, or NaN where a value is missing."""
    found = np.empty(len(values))
    for row, value in enumerate(values):
        truth = np.nan if value is None else _TRUTH.get(str(value).strip().lower().removesuffix(".0"))
        if truth is None:
            raise UserError(
                f"{value!r} is no truth value", where=f"column {name!r}, row {row}", expected="true or false"
            )
        found[row] = truth
    return found


def _missing(name: str, row: int) -> UserError:
    return UserError(
        "the value is missing",
        where=f"column {name!r}, row {row}",
        expected="a value: the model was trained on whole rows",
    )
