"""What a request to `/predict` may say: rows as lists or as objects, checked down to the value.

Wrong rows are answered with 422, a sentence, and the row and column it is about: `data[3]` is the fourth row.

Shapes: B rows.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from groundup.data.table import notation
from groundup.data.table.preprocess import Column, Preprocessor, missing_numbers
from groundup.deploy.web import ApiError

MAX_ROWS = 10_000
MAX_BODY_BYTES = 64 << 20

_EXPECTED = {"number": "a number", "boolean": "true or false", "category": "a text or a number"}
_TYPES: dict[str, set[type]] = {
    "number": {int, float},
    "boolean": {bool, int, float, str},
    "category": {str, int, float, bool},
}
_TRUTHS = {True, False, "true", "false"}  # 1 and 0 are equal to True and False


def parse_predict(body: bytes, preprocessor: Preprocessor) -> dict[str, NDArray[Any]]:
    """The columns of the rows in `body`, as Preprocessor.encode takes them, one array of B values each.

    Raises ApiError: 400 for what is no JSON, 413 for too many rows, 422 for the first thing that is wrong with a row.
    """
    rows = _rows(_document(body))
    names = [column.name for column in preprocessor.columns]
    kinds = set(map(type, rows))
    if kinds == {list}:
        _check_widths(rows, names)
        by_column = list(zip(*rows, strict=True))
    elif kinds == {dict}:
        _check_fields(rows, names, preprocessor)
        by_column = [tuple(row[name] for row in rows) for name in names]
    else:
        raise _not_rows(rows)
    missing = frozenset(preprocessor.missing_values)
    gone = missing_numbers(preprocessor.missing_values, preprocessor.decimal)
    return {c.name: _values(c, v, missing, gone) for c, v in zip(preprocessor.columns, by_column, strict=True)}


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(body)  # takes NaN and Infinity, so that they can be told by row and column
        except (ValueError, RecursionError):
            raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from error


def _rows(document: Any) -> list[Any]:
    if not isinstance(document, dict):
        raise ApiError(422, "The body must be an object with the field `data`.", param="data", code="missing")
    if "data" not in document:
        raise ApiError(422, "`data` is missing: the rows to predict.", param="data", code="missing")
    rows = document["data"]
    if not isinstance(rows, list):
        raise ApiError(422, f"`data` must be a list of rows, not {_told(rows)}.", param="data", code="invalid_type")
    if not rows:
        raise ApiError(422, "`data` is empty; at least one row is needed.", param="data", code="empty")
    if len(rows) > MAX_ROWS:
        message = f"`data` has {len(rows):,} rows; at most {MAX_ROWS:,} are taken at once. Send them in portions."
        raise ApiError(413, message, param="data", code="too_many_rows")
    return rows


def _not_rows(rows: list[Any]) -> ApiError:
    for number, row in enumerate(rows):
        if not isinstance(row, (list, dict)):
            hint = " Even a single row goes into a list of rows: [[...]]." if number == 0 else ""
            message = f"data[{number}] is {_told(row)}; expected a row: a list or an object.{hint}"
            return ApiError(422, message, param=f"data[{number}]", code="invalid_type")
    number = next(n for n, row in enumerate(rows) if type(row) is not type(rows[0]))
    message = f"data[{number}] is {_told(rows[number])} and data[0] is {_told(rows[0])}; all rows must be of one kind."
    return ApiError(422, message, param=f"data[{number}]", code="mixed_rows")


def _check_widths(rows: list[list[Any]], names: Sequence[str]) -> None:
    if set(map(len, rows)) == {len(names)}:
        return
    number, row = next((n, row) for n, row in enumerate(rows) if len(row) != len(names))
    message = f"data[{number}] has {_count(len(row), 'value')}; expected {len(names):,}, in the order {_some(names)}."
    if len(row) < len(names):
        message += f" The first column without one is `{names[len(row)]}`."
    raise ApiError(422, message, param=f"data[{number}]", code="wrong_width")


def _check_fields(rows: list[dict[str, Any]], names: Sequence[str], preprocessor: Preprocessor) -> None:
    expected = dict.fromkeys(names).keys()
    for number, row in enumerate(rows):
        if row.keys() == expected:
            continue
        missing = [name for name in names if name not in row]
        extra = [_printable(name) for name in row if name not in expected]
        if missing:
            message = f"data[{number}] lacks {_columns(missing)}."
            near = difflib.get_close_matches(missing[0], extra, 1)
            if near:
                message += f" It has `{near[0]}`, which is no column of the model."
            elif preprocessor.imputes:
                message += " A value that is not known is sent as null."
            raise ApiError(422, message, param=f"data[{number}].{missing[0]}", code="missing_field")
        message = f"data[{number}] has `{extra[0]}`, {_why_extra(extra[0], names, preprocessor)}."
        raise ApiError(422, message, param=f"data[{number}].{extra[0]}", code="extra_field")


def _why_extra(name: str, names: Sequence[str], preprocessor: Preprocessor) -> str:
    if name == preprocessor.target:
        return "which is what the model predicts; leave it out"
    if name in preprocessor.ignored:
        return "which the model was trained without; leave it out"
    near = difflib.get_close_matches(name, names, 1)
    return "which is no column of the model" + (f"; did you mean `{near[0]}`?" if near else "; leave it out")


def _values(column: Column, values: tuple[Any, ...], missing: frozenset[str], gone: frozenset[float]) -> NDArray[Any]:
    """One column's values: float64 for numbers, NaN where null; objects else. Raises ApiError for a wrong one."""
    may_be_missing = column.fill is not None
    if str in map(type, values):
        values = tuple(_read(column, row, value, missing) for row, value in enumerate(values))
    if gone and column.kind != "boolean":
        values = tuple(None if type(v) in (int, float) and v in gone else v for v in values)
    kinds = set(map(type, values))
    allowed = _TYPES[column.kind] | ({type(None)} if may_be_missing else set())
    if not kinds <= allowed:
        row = next(n for n, value in enumerate(values) if type(value) not in allowed)
        raise _wrong(column, row, values[row])
    if column.kind == "number":
        try:
            numbers_B = np.array(values, np.float64)  # None becomes NaN
        except OverflowError:
            row = max(range(len(values)), key=lambda n: abs(values[n] or 0))
            raise _wrong(column, row, values[row], "a smaller number") from None
        for row in np.flatnonzero(~np.isfinite(numbers_B)).tolist():
            if values[row] is not None:
                raise _wrong(column, row, values[row], "a finite number")
        return numbers_B
    texts_B = np.empty(len(values), object)
    for row, value in enumerate(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(column, row, value)
        if column.kind == "boolean" and value is not None:
            value = value.lower() if isinstance(value, str) else value
            if value not in _TRUTHS:
                raise _wrong(column, row, values[row])
        texts_B[row] = value
    return texts_B


def _read(column: Column, row: int, value: Any, missing: frozenset[str]) -> Any:
    """What a text stands for, as in the table's files: a missing value, or a number in the column's notation."""
    if not isinstance(value, str):
        return value
    if column.kind != "number":
        return None if value.strip() in missing else value
    if not notation.is_written(value, column.notation):
        return value
    if value.strip() in missing:
        return None
    try:
        return float(notation.values([value], column.notation)[0])
    except ValueError:
        raise _wrong(column, row, value, notation.EXPECTED[column.notation]) from None


def _wrong(column: Column, row: int, value: Any, expected: str = "") -> ApiError:
    message = (
        f"In data[{row}] the column `{column.name}` is {_told(value)}; expected {expected or _EXPECTED[column.kind]}"
    )
    if value is None:
        message += ": the model was trained on whole rows"
    elif isinstance(value, str) and column.kind == "number" and _is_number(value):
        message += ", without quotes"
    return ApiError(422, f"{message}.", param=f"data[{row}].{column.name}", code="invalid_value")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _told(value: Any) -> str:
    """A JSON value in words, with its type."""
    if isinstance(value, str):
        text = _printable(value)
        return f'the text "{text[:40]}{"..." if len(text) > 40 else ""}"'
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if value is None:
        return "null"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length():,} bits"
    return f"the number {value}"


def _printable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can name and UTF-8 can't hold."""
    return text.encode("utf-8", "replace").decode()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _columns(names: Sequence[str]) -> str:
    return f"the column {_some(names)}" if len(names) == 1 else f"{len(names):,} columns: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:4])
    return shown + (f", ... `{names[-1]}`" if len(names) > 4 else "")
