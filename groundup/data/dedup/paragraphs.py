"""Lines or paragraphs that stand in the corpus more than once: all but the first are cut out of their documents.

Passages of a shard are numbered through, (shard << 32) | passage, as documents are, so that `exact.scatter` and
`exact.duplicates` find the repeated ones. Rewriting counts the same passages again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from groundup.data.jit import kernel
from groundup.data.kernels import mix
from groundup.data.texts import buffers, from_buffers

# How many line ends in a row end a passage.
LINE, PARAGRAPH = 1, 2
_NEWLINE = 0x0A


def passage_hashes(
    texts: pa.LargeStringArray, unit: int, shortest: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Hashes of all passages of at least `shortest` characters, uint64 [M, 2]; their bytes with the line ends behind
    them, int64 [M]; and how many each text has, int64 [N].

    `unit` is LINE or PARAGRAPH. White space around a passage counts for nothing.
    """
    data, spans, counts, _ = _passages(texts, unit, shortest)
    return _hashes_of(data, spans[:, 1:3]), spans[:, 3] - spans[:, 0], counts


def drop_passages(
    texts: pa.LargeStringArray, unit: int, shortest: int, dropped: np.ndarray[Any, Any]
) -> tuple[pa.LargeStringArray, np.ndarray[Any, Any]]:
    """The texts without the passages marked in `dropped`, bool [M], and how many bytes each lost, int64 [N].

    The passages are those that `passage_hashes` numbers, of the same texts in the same order. A passage goes with the
    line ends behind it.
    """
    data, spans, counts, offsets = _passages(texts, unit, shortest)
    if len(spans) != len(dropped):
        raise ValueError(f"{len(dropped)} marks for {len(spans)} passages")
    gone = spans[dropped]
    out = np.empty(int(offsets[-1] - offsets[0]), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    ends_of_counts = np.concatenate([[0], np.cumsum(counts)])
    marks = np.concatenate([[0], np.cumsum(dropped)])[ends_of_counts]
    _cut(data, offsets, gone, marks, out, ends)
    lost = np.diff(offsets) - np.diff(ends)
    kept = from_buffers(ends, out[: ends[-1]])
    return kept, lost


def _hashes_of(data: np.ndarray[Any, Any], spans: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A 128-bit hash of each data[start:end] of uint8 `data`, spans int64 [N, 2]; uint64 [N, 2].

    For lines and paragraphs, of which there are too many for a call each.
    """
    out = np.empty((len(spans), 2), np.uint64)
    _span_hashes(data, spans, out)
    return out


@kernel
def _span_hashes(data: Any, spans: Any, out: Any) -> None:
    for s in range(len(spans)):
        start, end = spans[s, 0], spans[s, 1]
        # Two states, each a chain of bijections by its own constants: a collision must happen in both.
        first = np.uint64(end - start) * np.uint64(0x9E3779B97F4A7C15)
        second = np.uint64(end - start) ^ np.uint64(0xC2B2AE3D27D4EB4F)
        i = start
        while i < end:
            word = np.uint64(0)
            for k in range(min(8, end - i)):
                word |= np.uint64(data[i + k]) << np.uint64(8 * k)
            i += 8
            first = mix(first ^ word)
            second = (second ^ (word * np.uint64(0x87C37B91114253D5))) * np.uint64(0x4CF5AD432745937F)
            second ^= second >> np.uint64(29)
        out[s, 0] = mix(first)
        out[s, 1] = mix(second)


def _passages(texts: pa.LargeStringArray, unit: int, shortest: int) -> tuple[Any, Any, Any, Any]:
    """Bytes; for each passage where it, its text, its text's end and the next begin; counts a text; offsets."""
    offsets, data = buffers(texts)
    counts = np.zeros(len(texts), np.int64)
    # No more than this fits; pages that aren't written take no memory.
    spans = np.empty((int(offsets[-1] - offsets[0]) // max(1, shortest) + 1, 4), np.int64)
    total = _find(data, offsets, unit, max(1, shortest), spans, counts)
    return data, spans[:total], counts, offsets


@kernel
def _find(data: Any, offsets: Any, unit: int, shortest: int, spans: Any, counts: Any) -> int:
    """Fill `spans` and `counts`; the number of passages."""
    total = 0
    for d in range(len(offsets) - 1):
        start, end = offsets[d], offsets[d + 1]
        counts[d] = 0
        while start < end:
            # A passage ends behind `unit` line ends in a row and all that follow them.
            newlines = 0
            first, beyond, characters, pending = -1, start, 0, 0
            i = start
            while i < end:
                byte = data[i]
                if byte == _NEWLINE:
                    newlines += 1
                elif newlines >= unit:
                    break
                else:
                    newlines = 0
                if byte > 0x20:
                    if first < 0:
                        first, pending = i, 0
                    if byte & 0xC0 != 0x80:
                        characters += pending + 1
                        pending = 0
                    beyond = i + 1
                else:
                    pending += 1
                i += 1
            if first >= 0 and characters >= shortest:
                spans[total, 0], spans[total, 1], spans[total, 2], spans[total, 3] = start, first, beyond, i
                total += 1
                counts[d] += 1
            start = i
    return total


@kernel
def _cut(data: Any, offsets: Any, gone: Any, marks: Any, out: Any, ends: Any) -> None:
    written = 0
    for d in range(len(offsets) - 1):
        i = offsets[d]
        for g in range(marks[d], marks[d + 1]):
            for k in range(i, gone[g, 0]):
                out[written] = data[k]
                written += 1
            i = gone[g, 3]
        for k in range(i, offsets[d + 1]):
            out[written] = data[k]
            written += 1
        ends[d + 1] = written
