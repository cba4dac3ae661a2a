"""What each column holds: numbers, truth values or categories.

Types are taken from the first block of the first file. Where a later value doesn't fit, all columns are read once as
text to find the types that fit every value. Dates and times are numbers: seconds since 1970, or since midnight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from groundup.data.table.layout import Layout, TableFile
from groundup.data.table.read import Block, Types, blocks, parquet_types, place
from groundup.errors import UserError
from groundup.recipe.table import TableData

NUMBERS_FROM = 0.95  # share of numbers from which a text in a column is taken for a slip
_MOSTLY = 0.5  # share of numbers from which it is told that a column is taken for categories
_NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity|nan)$"
_COMMA = r"^[+-]?\d+,\d+$"
_TRUTH = r"^(true|True|TRUE|false|False|FALSE|1|0)$"
_TIME = r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?$"
_EXACT_TIME = r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?$"
# Within a family each type takes every text that the ones before it take.
_FAMILIES: list[list[pa.DataType]] = [
    [pa.int64(), pa.decimal128(38), pa.float64()],
    [pa.bool_()],
    [pa.date32(), pa.timestamp("s"), pa.timestamp("ns")],
    [pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC")],
    [pa.time32("s"), pa.time64("ns")],
]


def kind_of(kind: pa.DataType) -> str | None:
    """number, boolean or category; None where such a column can't be a feature."""
    types = pa.types
    if types.is_dictionary(kind):
        return kind_of(kind.value_type) and "category"
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        return "number"
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        return "number"
    return "category" if kind in (pa.string(), pa.large_string(), pa.string_view()) else None


def first_types(layout: Layout, data: TableData) -> Types:
    """The types of all columns, judged by the first block. Raises UserError where a Parquet column can't be used."""
    if layout.format == "parquet":
        types: Types = parquet_types(layout)
        for name in [*layout.features, layout.target]:
            if kind_of(types[name]) is None:
                raise UserError(
                    f"column {name!r} holds {types[name]}",
                    where=str(layout.files[0].path),
                    expected="numbers, truth values or strings",
                    advice="Name it in data.ignore",
                )
        return types
    text = _always_text(layout, data)
    block = next(blocks(layout, data, dict.fromkeys(text, pa.string()), layout.names))
    # Text that isn't UTF-8 is inferred as bytes; as a string it is refused with its place.
    types = {f.name: pa.string() if kind_of(f.type) is None else f.type for f in block.batch.schema}
    for name in layout.features:
        # The one type of `_FAMILIES` that the reader takes but never infers.
        if types[name] == pa.string() and name not in text and _fits(block.batch.column(name), pa.time64("ns"), "."):
            types[name] = pa.time64("ns")
    return types


def _always_text(layout: Layout, data: TableData) -> list[str]:
    """The target keeps its own spelling, and so do columns that are not looked into."""
    return [layout.target, *data.categories, *layout.ignored]


def profile(layout: Layout, data: TableData, on_bytes: Callable[[int], None]) -> Types:
    """The types that fit every value of a CSV table, by one scan. Raises UserError as `Slips.check` does."""
    types: Types = dict.fromkeys(layout.names, pa.string())
    open_columns = [name for name in layout.features if name not in data.categories]
    # Per column and family, how far along the family the values have led; past its end, the family is out.
    reached = {name: [0] * len(_FAMILIES) for name in open_columns}
    empty = dict.fromkeys(open_columns, True)
    slips = Slips(data)
    for block in blocks(layout, data, types, layout.names, on_bytes):
        for name in open_columns:
            bare = block.batch.column(name)
            texts = trimmed(bare, data)
            empty[name] &= texts.null_count == len(texts)
            at = reached[name]
            for number, family in enumerate(_FAMILIES):
                while at[number] < len(family) and not (
                    _fits(bare if _takes_no_blanks(family[at[number]]) else texts, family[at[number]], data.decimal)
                ):
                    at[number] += 1
            slips.count(name, texts, block, all_numbers=at[0] < len(_FAMILIES[0]))
    for name in open_columns:
        fitting = [family[at] for family, at in zip(_FAMILIES, reached[name], strict=True) if at < len(family)]
        types[name] = pa.null() if empty[name] else fitting[0] if fitting else pa.string()
    slips.check()
    return types


def _takes_no_blanks(kind: pa.DataType) -> bool:
    """Whether the CSV reader takes such values only without blanks around them."""
    return bool(pa.types.is_boolean(kind) or pa.types.is_timestamp(kind))


def _fits(texts: pa.Array, kind: pa.DataType, decimal: str) -> bool:
    if pa.types.is_time(kind):
        # There is no cast from text to these.
        pattern = _TIME if kind == pa.time32("s") else _EXACT_TIME
        return _all_match(texts, pattern)
    if pa.types.is_boolean(kind):
        # The cast takes spellings that the CSV reader does not.
        return _all_match(texts, _TRUTH)
    try:
        pc.cast(texts if decimal == "." else _with_point(texts), kind)
    except pa.ArrowInvalid:
        return False
    return True


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(texts, pattern)).as_py() is not False


def _with_point(texts: pa.Array) -> pa.Array:
    """Numbers with a decimal comma as casts take them; a point makes them none."""
    return pc.replace_substring(pc.replace_substring(texts, ".", "?"), ",", ".")


def trimmed(texts: pa.Array, data: TableData) -> pa.Array:
    """Strings without blanks around them; null where what is left stands for a missing value."""
    short = pc.utf8_trim_whitespace(texts)
    gone = pc.is_in(short, value_set=pa.array(data.missing_values, short.type))
    return pc.if_else(gone, pa.scalar(None, short.type), short)


@dataclass
class _Count:
    values: int = 0
    numbers: int = 0
    commas: int = 0  # numbers but for a comma
    first: tuple[str, TableFile, int] | None = None  # the first text, its file, its row within it


class Slips:
    """Counts numbers in columns of text, to find those that are numbers but for a few slips or for decimal commas."""

    def __init__(self, data: TableData) -> None:
        self.data = data
        self._counts: dict[str, _Count] = {}

    def count(self, name: str, texts: pa.Array, block: Block, *, all_numbers: bool = False) -> None:
        """Take in the trimmed texts of a column in `block`. `all_numbers`: they are known to be numbers."""
        count = self._counts.setdefault(name, _Count())
        values = len(texts) - texts.null_count
        count.values += values
        if all_numbers:
            count.numbers += values
            return
        numeric = pc.match_substring_regex(texts if self.data.decimal == "." else _with_point(texts), _NUMBER)
        numbers = pc.sum(numeric).as_py() or 0
        count.numbers += numbers
        if numbers == values:
            return
        if self.data.decimal == ".":
            count.commas += pc.sum(pc.match_substring_regex(texts, _COMMA)).as_py() or 0
        if count.first is None:
            row = pc.index(numeric, False).as_py()
            count.first = (texts[row].as_py(), block.file, block.first + row)

    def check(self) -> None:
        """UserError for the first column that is at least 95% numbers, but not wholly or only with commas."""
        for name, count in self._counts.items():
            if count.first is None or count.numbers + count.commas < NUMBERS_FROM * count.values:
                continue
            text, file, row = count.first
            if count.commas:
                raise UserError(
                    f"column {name!r} holds numbers with a comma in {count.commas:,} of its {count.values:,} values, "
                    f"the first text being {text!r}",
                    where=place(file, self.data, row),
                    expected="numbers with a point",
                    advice=f'If it is the decimal comma, set data.decimal = ","; if it is a name, list {name!r} in '
                    "data.categories",
                )
            raise UserError(
                f"column {name!r} holds the text {text!r}, but {count.numbers:,} of its {count.values:,} values "
                "are numbers",
                where=place(file, self.data, row),
                expected="a number",
                advice=f"Mend the value, add {text!r} to data.missing_values, or name {name!r} in data.categories",
            )

    def warnings(self) -> list[str]:
        """What is to be said of columns of categories most of which are numbers."""
        return [
            f"column {name!r} is taken for categories, though {count.numbers:,} of its {count.values:,} values are "
            f"numbers; the first text is {count.first[0]!r}"
            for name, count in self._counts.items()
            if count.first is not None and count.numbers >= _MOSTLY * count.values
        ]
