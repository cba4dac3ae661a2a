"""The second pass: what is learnt from the training rows, as a `Preprocessor`, and what is told of the columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from groundup.data.table.clean import CleanPass
from groundup.data.table.notation import notation_of
from groundup.data.table.output import read_scratch
from groundup.data.table.preprocess import Column, Preprocessor
from groundup.data.table.statistics import Categories, Moments
from groundup.errors import UserError
from groundup.recipe.table import TableData

_SHOWN = 10


@dataclass(frozen=True)
class Learnt:
    """`columns`: the manifest's entries, in training order."""

    preprocessor: Preprocessor
    columns: list[dict[str, Any]]
    warnings: list[str]


def learn(
    cleaned: CleanPass,
    part: NDArray[np.int8],
    classes: list[Any],
    data: TableData,
    scratch: Path,
    advance: Callable[[int], None],
) -> Learnt:
    """`part`: per kept row, 0 for the training rows. `advance` is told of bytes read from the scratch file.

    Raises UserError for a column without a value in the training rows, or with values too large for statistics.
    """
    plan = cleaned.plan
    moments = Moments(len(plan.numeric))
    counts = {name: Categories(name) for name in plan.categorical}
    start = 0
    for numbers_BN, texts in read_scratch(scratch, plan):
        training = part[start : start + len(numbers_BN)] == 0
        moments.add(numbers_BN[training])
        for count, column in zip(counts.values(), texts, strict=True):
            count.add(column.filter(pa.array(training)))
        start += len(numbers_BN)
        advance(numbers_BN.nbytes)

    imputes = data.missing == "impute"
    mean_N, std_N = moments.finish(imputes)
    places = {name: n for n, name in enumerate(plan.numeric)}
    columns, entries = [], []
    for name in cleaned.layout.features:
        entry: dict[str, Any] = {"name": name, "kind": plan.kind(name), "missing": cleaned.missing[name]}
        if name in counts:
            column = _category(counts[name], data, imputes)
            distinct = len(counts[name].counts)
            entry |= {"constant": distinct == 1, "distinct": distinct, "mean": None, "std": None}
            entry |= {"min": None, "max": None}
        else:
            n = places[name]
            if not moments.count_N[n]:
                raise _no_training_value(name)
            mean, std, least, most = (float(a[n]) for a in (mean_N, std_N, moments.min_N, moments.max_N))
            if not np.isfinite([mean, std]).all():
                raise UserError(
                    f"column {name!r} holds values too large to scale, up to {max(abs(least), abs(most)):g}",
                    where="data",
                    advice="Name it in data.ignore, or give it in another unit",
                )
            notation = notation_of(cleaned.types[name])
            column = _number(name, plan.kind(name), mean, std, notation, data)
            distinct_truths = 1 + (least != most) if plan.kind(name) == "boolean" else None
            entry |= {"constant": least == most, "distinct": distinct_truths, "mean": mean, "std": std}
            entry |= {"min": least, "max": most}
        columns.append(column)
        entries.append(entry)
    preprocessor = Preprocessor(
        columns,
        data.target,
        classes,
        ignored=cleaned.layout.ignored,
        imputes=imputes,
        infinite_missing=data.infinite == "missing",
        missing_values=data.missing_values,
        decimal=data.decimal,
    )
    return Learnt(preprocessor, entries, _warnings(entries, cleaned.twins))


def _number(name: str, kind: str, mean: float, std: float, notation: str, data: TableData) -> Column:
    fill = None
    if data.missing == "impute":
        fill = mean if kind == "number" else float(mean > 0.5)
    scaled = kind == "number" and data.scale == "standard"
    centre, scale = (mean, std or 1.0) if scaled else (0.0, 1.0)
    return Column(name, kind, centre, scale, fill, notation=notation)


def _category(count: Categories, data: TableData, imputes: bool) -> Column:
    if count.commonest is None:
        raise _no_training_value(count.name)
    categories, other = count.most_common(data.max_categories)
    return Column(count.name, "category", fill=count.commonest if imputes else None, categories=categories, other=other)


def _no_training_value(name: str) -> UserError:
    return UserError(
        f"column {name!r} has no value in the training rows",
        where="data",
        expected="columns with values",
        advice="Name it in data.ignore",
    )


def _warnings(entries: list[dict[str, Any]], twins: list[list[str]]) -> list[str]:
    found = []
    constant = [entry["name"] for entry in entries if entry["constant"]]
    if constant:
        found.append(f"the same value in all training rows: {_shown(constant)}")
    for names in twins:
        # Constant columns are told of already.
        if len(varying := [name for name in names if name not in constant]) > 1:
            found.append(f"columns with equal content: {_shown(varying)}")
    return found


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
