"""Texts as sequences of token hashes, and runs of n tokens as one hash each.

A token is a word (letters, marks and digits) in lower case. In scripts that are written without spaces, each
character is a token by itself. Everything else separates tokens. So n-grams are of words in English, of characters in
Chinese, and a text that mixes both needs no rule of its own.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from groundup.data.jit import kernel
from groundup.data.kernels import mix
from groundup.data.texts import buffers

# Multiplier of the polynomial hash of a run of tokens (the constant of L'Ecuyer 1999, table 4, for modulus 2^64).
MULTIPLIER = np.uint64(3935559000370003845)

_TABLE_SIZE = 0x20000
_SINGLE = 1 << 31
# Ranges of scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, ideographs. Those from
# 0x20000 on are the ideographs' extensions.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
)
_EXTENSIONS_END = 0x323B0


@dataclass(frozen=True)
class Tokens:
    """Token hashes of N texts: text i has `hashes[offsets[i]:offsets[i + 1]]`; uint64 [T] and int64 [N + 1]."""

    hashes: np.ndarray[Any, np.dtype[np.uint64]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@cache
def character_table() -> np.ndarray[Any, np.dtype[np.uint32]]:
    """What each code point below 0x20000 is, uint32: 0 a separator, else its lower case, with bit 31 set where it is a
    token by itself. It follows the interpreter's version of Unicode (`unicodedata.unidata_version`)."""
    table = np.zeros(_TABLE_SIZE, np.uint32)
    for code in range(_TABLE_SIZE):
        character = chr(code)
        if unicodedata.category(character)[0] in "LMN":
            lower = character.lower()
            table[code] = ord(lower) if len(lower) == 1 else code
    for first, last in _UNSPACED:
        part = table[first : last + 1]
        part[part != 0] |= np.uint32(_SINGLE)
    return table


def tokenize(texts: pa.LargeStringArray) -> Tokens:
    """The token hashes of each text. Memory: 8 bytes a token."""
    offsets, data = buffers(texts)
    # A token and its separator take two bytes at least.
    most = (int(offsets[-1] - offsets[0]) + len(texts) + 1) // 2 + 1
    hashes = np.empty(most, np.uint64)
    starts = np.zeros(len(offsets), np.int64)
    _tokenize(data, offsets, character_table(), hashes, starts)
    return Tokens(hashes[: starts[-1]], starts)


@kernel
def _tokenize(data: Any, offsets: Any, table: Any, hashes: Any, starts: Any) -> None:
    basis, prime = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
    single = np.uint32(_SINGLE)
    count = 0
    for i in range(len(offsets) - 1):
        position, end = offsets[i], offsets[i + 1]
        word = basis
        while position < end:
            byte = np.uint32(data[position])
            if byte < 0x80:
                position += 1
                token = table[byte]
            else:
                # Arrow's strings are valid UTF-8; the bound only keeps a damaged one from being read beyond its end.
                length = 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)
                length = min(length, end - position)
                code = byte & np.uint32(0xFF >> (length + 1))
                for k in range(1, length):
                    code = (code << np.uint32(6)) | np.uint32(data[position + k] & 0x3F)
                position += length
                token = np.uint32(0)
                if code < _TABLE_SIZE:
                    token = table[code]
                elif code < _EXTENSIONS_END:
                    token = code | single
            if token - np.uint32(1) < single - np.uint32(1):
                word = (word ^ np.uint64(token)) * prime
                continue
            if word != basis:
                hashes[count] = mix(word)
                count += 1
                word = basis
            if token != 0:
                hashes[count] = mix((basis ^ np.uint64(token & ~single)) * prime)
                count += 1
        if word != basis:
            hashes[count] = mix(word)
            count += 1
        starts[i + 1] = count


def power(n: int) -> np.uint64:
    """MULTIPLIER to the n-th power, modulo 2^64."""
    return np.uint64(pow(int(MULTIPLIER), n, 1 << 64))


@kernel
def roll(state: np.uint64, tokens: Any, i: int, start: int, n: int, highest: np.uint64) -> np.uint64:
    """The polynomial hash of the last n tokens up to i, from that up to i - 1; `highest` is MULTIPLIER^n.

    Of a text that begins at `start`, the first n - 1 states are hashes of fewer tokens.
    """
    state = state * MULTIPLIER + tokens[i]
    if i - start >= n:
        state -= tokens[i - n] * highest
    return state
