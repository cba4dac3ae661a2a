"""How a column of numbers is written in its file: as numbers, whole ones also in base 16, or as dates or times, which
are seconds since 1970, or since midnight. A row that is served may say a value in the same way."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_MICROSECONDS = 1e6
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]+")
EXPECTED = {
    "number": "a number",
    "whole": "a number",
    "date": 'a date such as "2020-01-31" or "2020-01-31 10:30:00", or seconds since 1970',
    "zoned": 'a date and time with its zone, such as "2020-01-31T10:30:00Z", or seconds since 1970',
    "time": 'a time such as "10:30", or seconds since midnight',
}


def notation_of(kind: pa.DataType) -> str:
    """One of the keys of `EXPECTED`."""
    types = pa.types
    if types.is_timestamp(kind) and kind.tz is not None:
        return "zoned"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "date"
    if types.is_time(kind):
        return "time"
    return "whole" if types.is_integer(kind) else "number"


def is_written(text: str, notation: str) -> bool:
    """Whether a text may stand for a value, which `values` would still refuse where it is a wrong one."""
    return notation in ("date", "zoned", "time") or (
        notation == "whole" and _HEXADECIMAL.fullmatch(text.strip()) is not None
    )


def values(texts: Sequence[str], notation: str) -> NDArray[np.float64]:
    """What texts in a notation other than "number" stand for. Raises ValueError where one stands for nothing."""
    stripped = pa.array([text.strip() for text in texts], pa.string())
    if notation == "whole":
        return np.asarray(pc.cast(stripped, pa.int64()).to_numpy(zero_copy_only=False), np.float64)
    if notation == "time":  # there is no cast from text to times
        stripped = pc.binary_join_element_wise("1970-01-01", stripped, " ")
    zone = "UTC" if notation == "zoned" else None
    try:
        moments = pc.cast(stripped, pa.timestamp("us", zone))
    except pa.ArrowInvalid:
        moments = pc.cast(stripped, pa.timestamp("ns", zone))
    return np.asarray(as_doubles(moments).to_numpy(zero_copy_only=False), np.float64)


def as_doubles(column: pa.Array) -> pa.Array:
    """Truth values as 0 and 1; times as seconds since 1970, or since midnight."""
    kind, types = column.type, pa.types
    if types.is_timestamp(kind) or types.is_date(kind):
        column = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
    elif types.is_time(kind):
        column = column.cast(pa.time64("us"), safe=False).cast(pa.int64())
    else:
        return column.cast(pa.float64())
    return pc.divide(column.cast(pa.float64(), safe=False), _MICROSECONDS)
