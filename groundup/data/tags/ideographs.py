"""Runs of ideographs, each a token of three bytes: the short way for what `scan` does with one."""

from __future__ import annotations

import numpy as np

from groundup.data.intrinsics import peek_8, peek_uint32, poke_uint32, poke_uint64
from groundup.data.jit import inlined, kernel
from groundup.data.kernels import IDEOGRAPH, SPACE, class_of, hash_start, hash_step

_THREE = np.uint64(3)
_CODE_BYTES = np.uint64(0xFFFFFF)


@inlined
def _class_of_three(eight: np.uint64, table: int) -> int:
    """The class of the character of three bytes that these begin with; that of white space for any other beginning."""
    if eight & np.uint64(0xC0C0F0) != np.uint64(0x8080E0):
        return SPACE
    bytes_ = np.int64(eight & _CODE_BYTES)
    code = (bytes_ & 0xF) << 12 | (bytes_ >> 8 & 0x3F) << 6 | bytes_ >> 16 & 0x3F
    return class_of(table, int(code))


@kernel
def scan_ideographs(
    data: int,
    at: int,
    stop: int,
    limit: int,
    table: int,
    gap: bool,
    hashes: int,
    ends: int,
    spans: int,
    tokens: int,
    room: int,
) -> int:
    """Store the ideographs from byte `at` on behind `tokens` others, up to the last that no extender follows and to
    `room` in all; returns the tokens now. gap: whether white space is before the first. hashes, ends, spans: addresses.
    """
    length, span = peek_uint32(ends, tokens), peek_uint32(spans, tokens) + gap
    kind = _class_of_three(peek_8(data, at), table) if at + 8 <= limit else SPACE
    while kind & IDEOGRAPH and at + 3 <= stop and tokens < room:
        eight = peek_8(data, at)
        following = eight >> np.uint64(24)
        kind = SPACE
        if at + 3 < stop and following & np.uint64(0x80):
            if at + 11 > limit:
                break
            kind = _class_of_three(following, table)
            # An extender, or what isn't of three bytes and may be one.
            if kind == 0 or (kind == SPACE and following & np.uint64(0xF0) != np.uint64(0xE0)):
                break
        poke_uint64(hashes, tokens, hash_step(hash_step(hash_start(), _THREE), eight & _CODE_BYTES))
        length += 1
        span += 1
        tokens += 1
        poke_uint32(ends, tokens, length)
        poke_uint32(spans, tokens, span)
        at += 3
    return tokens
