"""Which of a few fixed phrases stand in a line, whatever their case: Wu and Manber's search (1994) over the bytes."""

from __future__ import annotations

import numpy as np

from groundup.data.intrinsics import peek
from groundup.data.jit import kernel
from groundup.data.texts import Bytes

# Bits of the kinds of phrases. The phrases are those of C4's code (Raffel et al. 2020; tensorflow_datasets, c4_utils).
LOREM_IPSUM = 1
JAVASCRIPT = 2
POLICY = 4
PHRASES = (
    ("lorem ipsum", LOREM_IPSUM),
    ("javascript", JAVASCRIPT),
    ("terms of use", POLICY),
    ("privacy policy", POLICY),
    ("cookie policy", POLICY),
    ("uses cookies", POLICY),
    ("use of cookies", POLICY),
    ("use cookies", POLICY),
)

_WINDOW = min(len(phrase) for phrase, _ in PHRASES)


def _pair(first: int, second: int) -> int:
    """A number below 1024 of two bytes that is the same for both cases."""
    return (first & 31) << 5 | (second & 31)


def _build() -> tuple[Bytes, Bytes, Bytes]:
    """How far the window may jump by its last two bytes, [1024]; the phrases, padded with zeros; their kinds."""
    jumps = np.full(1024, _WINDOW - 1, np.uint8)
    padded = np.zeros((len(PHRASES), 16), np.uint8)
    for row, (phrase, _) in enumerate(PHRASES):
        encoded = phrase.encode()
        padded[row, : len(encoded)] = list(encoded)
        for last in range(1, _WINDOW):
            pair = _pair(encoded[last - 1], encoded[last])
            jumps[pair] = min(int(jumps[pair]), _WINDOW - 1 - last)
    return jumps, padded, np.array([kind for _, kind in PHRASES], np.uint8)


_JUMPS, _PADDED, _KINDS = _build()


@kernel
def phrases_in(data: int, start: int, stop: int) -> int:
    """The kinds of all phrases from byte `start` to `stop` of the text at address `data`, as bits.

    Letters A to Z count as a to z.
    """
    found = 0
    last = start + _WINDOW - 1
    while last < stop:
        jump = int(_JUMPS[(peek(data, last - 1) & 31) << 5 | peek(data, last) & 31])
        if jump == 0:
            found |= _match(data, last - _WINDOW + 1, stop)
            jump = 1
        last += jump
    return found


@kernel
def _match(data: int, start: int, stop: int) -> int:
    found = 0
    for row in range(len(_PADDED)):
        size = 0
        while size < 16 and _PADDED[row, size] != 0 and start + size < stop:
            byte = peek(data, start + size)
            if 65 <= byte <= 90:
                byte += 32
            if byte != _PADDED[row, size]:
                break
            size += 1
        if size == 16 or _PADDED[row, size] == 0:
            found |= int(_KINDS[row])
    return found
