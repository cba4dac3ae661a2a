"""128-bit hashes of texts, under which two texts are the same if and only if their bytes are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from groundup.data.texts import buffers


def content_hashes(texts: pa.LargeStringArray) -> np.ndarray[Any, Any]:
    """XXH3-128 of each text's bytes, uint64 [N, 2]: its high half, its low half."""
    offsets, data = buffers(texts)
    content, digest = data.data, xxhash.xxh3_128_digest
    ends = offsets.tolist()
    digests = b"".join([digest(content[start:end]) for start, end in pairwise(ends)])
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
