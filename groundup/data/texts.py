"""Arrow's arrays of strings as the two numpy arrays that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


def buffers(texts: pa.LargeStringArray) -> tuple[Offsets, Bytes]:
    """(offsets int64 [rows + 1], data uint8) of an array of strings without copying: row i is the UTF-8 bytes
    `data[offsets[i] : offsets[i + 1]]`. A slice's offsets don't begin at 0. A null is an empty text.

    Raises TypeError for an array that isn't of large strings.
    """
    if not pa.types.is_large_string(texts.type):
        raise TypeError(f"an array of {texts.type}, not of large_string")
    if texts.null_count:
        texts = texts.fill_null("")
    _, ends, data = texts.buffers()
    if ends is None or not len(texts):
        return np.zeros(len(texts) + 1, np.int64), np.zeros(0, np.uint8)
    offsets = np.frombuffer(ends, np.int64, len(texts) + 1, texts.offset * 8)
    return offsets, np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)


def from_buffers(offsets: Offsets, data: Any) -> pa.LargeStringArray:
    """The array of strings with these offsets [rows + 1], the first 0, and bytes of UTF-8, without copying."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
