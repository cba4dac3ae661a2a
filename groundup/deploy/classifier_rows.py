"""Rows of the cleaned table as they were before encoding, to check an export on.

Shapes: B rows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.table.notation import values
from groundup.data.table.preprocess import Column, Preprocessor


def raw_rows(data: Path, wanted_B: NDArray[np.int64], preprocessor: Preprocessor) -> dict[str, NDArray[Any]] | None:
    """The rows with these numbers, in this order, as Preprocessor.encode takes them.

    data: a run's folder of prepared data; its cleaned.csv holds the rows of all parts in the order of their numbers.
    None where there is no cleaned.csv, or it can't be read back.
    """
    path = data / "cleaned.csv"
    if not path.exists():
        return None
    numbers = np.sort(np.concatenate([np.load(part) for part in sorted(data.glob("*/rows.npy"))]))
    places_B = np.searchsorted(numbers, wanted_B)
    places = set(places_B.tolist())
    found: dict[int, list[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            records = csv.reader(file)
            header = next(records)
            for place, record in enumerate(records):
                if place in places:
                    found[place] = record
                    if len(found) == len(places):
                        break
        rows = [found[place] for place in places_B.tolist()]
        empty = "" not in preprocessor.missing_values
        return {c.name: _values(c, [row[header.index(c.name)] for row in rows], empty) for c in preprocessor.columns}
    except (csv.Error, KeyError, IndexError, ValueError, StopIteration):
        return None


def _values(column: Column, texts: list[str], empty: bool) -> NDArray[Any]:
    """`empty`: an empty text may be a value, which the cleaned table does not tell from a missing one."""
    if empty and column.kind == "category" and "" in texts:
        raise ValueError(column.name)
    if column.kind == "number":
        written = [(text.strip() or None) for text in texts]
        if column.notation in ("date", "zoned", "time"):
            numbers_B = np.full(len(texts), np.nan)
            known_B = np.array([text is not None for text in written])
            numbers_B[known_B] = values([text for text in written if text is not None], column.notation)
            return numbers_B
        return np.array([float(text) if text else np.nan for text in written])
    values_B = np.empty(len(texts), object)
    values_B[:] = [text or None for text in texts]
    return values_B
