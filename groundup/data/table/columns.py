"""Columns of a record batch as numbers, hashes and trimmed strings.

Shapes: B rows, C columns, N columns of numbers or booleans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from groundup.data.table.hashing import NULL, Words, as_words, text_words
from groundup.data.table.kinds import kind_of, trimmed
from groundup.data.table.notation import as_doubles
from groundup.data.table.read import Types
from groundup.recipe.table import TableData

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Which columns are taken as what: names in the files' order."""

    numeric: list[str]
    categorical: list[str]
    booleans: frozenset[str]

    @classmethod
    def of(cls, features: list[str], types: Types, data: TableData) -> Plan:
        kinds = {name: "category" if name in data.categories else kind_of(types[name]) for name in features}
        return cls(
            [n for n in features if kinds[n] != "category"],
            [n for n in features if kinds[n] == "category"],
            frozenset(n for n in features if kinds[n] == "boolean"),
        )

    def kind(self, name: str) -> str:
        return "boolean" if name in self.booleans else "category" if name in self.categorical else "number"


def number_columns(batch: pa.RecordBatch, names: list[str]) -> tuple[Doubles, Words]:
    """Values float64 [N, B], NaN where missing, and 64 bits of each value [N, B] that are exact for whole numbers and
    decimals."""
    values_NB = np.empty((len(names), batch.num_rows))
    whole: dict[int, Words] = {}
    for n, name in enumerate(names):
        column = batch.column(name)
        kind = column.type
        if pa.types.is_integer(kind):
            whole[n] = _whole_words(column)
        elif not pa.types.is_floating(kind):
            if pa.types.is_decimal(kind):
                whole[n] = text_words(column.cast(pa.string()))[0]
            column = as_doubles(column)
        values_NB[n] = column.to_numpy(zero_copy_only=False)
    words_NB = as_words(values_NB)
    for n, words in whole.items():
        words_NB[n] = words
    return values_NB, words_NB


def _whole_words(column: pa.Array) -> Words:
    """Doubles would make equal what differs beyond their 53 bits."""
    words = as_words(pc.cast(column, pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False))
    if not column.null_count:
        return words
    return np.where(column.is_null().to_numpy(zero_copy_only=False), NULL, words)


def text_column(column: pa.Array, data: TableData) -> pa.Array:
    """Trimmed strings; null where missing."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return trimmed(column.cast(pa.string()), data)


def all_words(words_NB: Words, texts: list[pa.Array]) -> Words:
    """[C, B]: the words of the numbers, then two for each column of strings."""
    return np.concatenate([words_NB, *(text_words(column) for column in texts)])
