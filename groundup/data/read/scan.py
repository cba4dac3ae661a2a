"""Where a file of lines can be cut, and how many records come before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from groundup.data.jit import kernel
from groundup.data.read.compression import open_stream
from groundup.data.read.part import Part
from groundup.data.read.sources import SourceFile

_CHUNK = 8 << 20
_BLOCK = 64


def cut_lines(file: SourceFile, size: int, on_bytes: Callable[[int], None] | None = None) -> list[Part]:
    """The plain UTF-8 file of lines `file` in parts that begin at lines, each of about `size` bytes or one line longer.

    Reads the file once, at memory speed, to count the records before each part (its lines that are not blank), so that
    a record has the same number however the file is cut. Raises OSError where it can't be read.
    """
    total = file.state()[0]
    count = max(1, round(total / size))
    wanted = [total * n // count for n in range(1, count)]
    parts = [Part(file)]
    place, counts = 0, np.zeros(3, np.int64)
    with open_stream(file.place, on_bytes) as stream:
        while wanted and (chunk := stream.read(_CHUNK)):
            data = np.frombuffer(chunk, np.uint8)
            at = 0
            while at < len(data):
                goal = wanted[0] - place if wanted else len(data)
                at = _lines(data, at, goal, counts)
                if wanted and place + at >= wanted[0] and counts[_BEGUN] == 0:
                    start = place + at
                    parts[-1] = replace(parts[-1], end=start)
                    parts.append(Part(file, start, None, int(counts[_RECORDS]), int(counts[_ENDS]) + 1))
                    while wanted and wanted[0] <= start:
                        wanted.pop(0)
            place += len(data)
    parts[-1] = replace(parts[-1], end=total)
    return [part for part in parts if part.start < total]


# Line ends and records so far, and what the line that is open holds: nothing, white space only, or more.
_ENDS, _RECORDS, _BEGUN = range(3)


@kernel
def _lines(data, i, goal, counts):  # type: ignore[no-untyped-def]
    """Count from byte `i` on, up to the first line that begins at `goal` or after it. Returns where that is, or the
    length of `data`."""
    end = len(data)
    while i < end:
        line_end = i
        while line_end + _BLOCK <= end:
            found = np.uint8(0)
            for k in range(np.uintp(line_end), np.uintp(line_end + _BLOCK)):
                found |= data[k] == 0x0A
            if found:
                break
            line_end += _BLOCK
        while line_end < end and data[line_end] != 0x0A:
            line_end += 1
        if counts[_BEGUN] < 2:
            k = i
            while k < line_end and (data[k] == 0x20 or (data[k] >= 0x09 and data[k] <= 0x0D)):
                k += 1
            if k < line_end:
                counts[_BEGUN] = 2
            elif line_end > i:
                counts[_BEGUN] = 1
        if line_end == end:
            return end
        counts[_ENDS] += 1
        counts[_RECORDS] += counts[_BEGUN] == 2
        counts[_BEGUN] = 0
        i = line_end + 1
        if i >= goal:
            return i
    return end
