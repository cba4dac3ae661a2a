"""Arrow's string arrays as the two numpy arrays that they are made of."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Offsets = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def buffers(texts: pa.LargeStringArray) -> tuple[Offsets, Bytes]:
    """Offsets (n + 1) and UTF-8 bytes of `texts`, without copying; text i is data[offsets[i] : offsets[i + 1]].

    A slice of an array keeps its parent's bytes, so the first offset need not be 0.
    """
    _, offsets, data = texts.buffers()
    if offsets is None or len(texts) == 0:
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    starts = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return starts, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)


def from_buffers(offsets: Offsets, data: Any) -> pa.LargeStringArray:
    """The array of strings with these offsets (n + 1, the first 0) and bytes of UTF-8, without copying."""
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


@numba.njit(cache=True, nogil=True)
def space_length(data, i):  # type: ignore[no-untyped-def]
    """Length in bytes of the character at `i` if it is white space to Python, a control character or U+FEFF; else 0."""
    byte = data[i]
    if byte <= 0x20 or byte == 0x7F:
        return 1
    if byte == 0xC2:
        return 2 if data[i + 1] <= 0xA0 else 0
    if byte < 0xE1 or byte > 0xEF:
        return 0
    second, third = data[i + 1], data[i + 2]
    if byte == 0xE2:
        if second == 0x80:
            return 3 if third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF else 0
        return 3 if second == 0x81 and third == 0x9F else 0
    if byte == 0xE1:
        return 3 if second == 0x9A and third == 0x80 else 0
    if byte == 0xE3:
        return 3 if second == 0x80 and third == 0x80 else 0
    return 3 if byte == 0xEF and second == 0xBB and third == 0xBF else 0
