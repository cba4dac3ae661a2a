"""128-bit hashes of texts, under which two texts are the same if and only if their bytes are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from groundup.data.dedup.jit import kernel, mix
from groundup.data.dedup.shingles import text_buffers


def content_hashes(texts: pa.LargeStringArray) -> np.ndarray[Any, Any]:
    """XXH3-128 of each text's bytes, uint64 [N, 2]: its high half, its low half."""
    data, offsets = text_buffers(texts)
    content, digest = data.data, xxhash.xxh3_128_digest
    ends = offsets.tolist()
    digests = b"".join([digest(content[start:end]) for start, end in pairwise(ends)])
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def span_hashes(data: np.ndarray[Any, Any], spans: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
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
