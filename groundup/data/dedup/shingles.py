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

from groundup.data.intrinsics import (
    WINDOW,
    bytes_between,
    highest_bit,
    lowest_bit,
    peek_8,
)
from groundup.data.jit import inlined, kernel
from groundup.data.kernels import hash_start, hash_step, mix
from groundup.data.texts import buffers

# Multiplier of the polynomial hash of a run of tokens (the constant of L'Ecuyer 1999, table 4, for modulus 2^64).
MULTIPLIER = np.uint64(3935559000370003845)

# Bytes from a window's first on that must be readable: the eight that its last one begins.
_READ = WINDOW + 8
_ONE, _ALL, _SMALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x2020202020202020)
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
    address, limit = data.ctypes.data, len(data)
    basis, prime = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
    single = np.uint32(_SINGLE)
    count = 0
    for i in range(len(offsets) - 1):
        position, end = offsets[i], offsets[i + 1]
        # The word that is open: its hash by code points, and by eight bytes, which counts where all are of ASCII.
        word, foreign = basis, False
        eights, chunk, bits = hash_start(), np.uint64(0), np.uint64(0)
        while position < end:
            byte = np.uint32(data[position])
            if word == basis and byte < 0x80 and position + _READ <= limit:
                size = _window(address, position, end)
                if size > 0:
                    count = _ascii_words(address, position, size, hashes, count)
                    position += size
                    continue
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
            inside = token - np.uint32(1) < single - np.uint32(1)
            if inside:
                word = (word ^ np.uint64(token)) * prime
                foreign = foreign or token >= 0x80
                chunk |= np.uint64(token) << bits
                bits += np.uint64(8)
                if bits == np.uint64(64):
                    eights, chunk, bits = hash_step(eights, chunk), np.uint64(0), np.uint64(0)
            if word != basis and not (inside and position < end):
                if bits > np.uint64(0):
                    eights = hash_step(eights, chunk)
                hashes[count] = mix(word if foreign else eights)
                count += 1
                word, foreign = basis, False
                eights, chunk, bits = hash_start(), np.uint64(0), np.uint64(0)
            if token != 0 and not inside:
                hashes[count] = mix((basis ^ np.uint64(token & ~single)) * prime)
                count += 1
        starts[i + 1] = count


@kernel
def _window(address: int, position: int, end: int) -> int:
    """How many bytes from `position` on, at most 64, are of ASCII and of whole words; 0 where the first is longer."""
    size = min(lowest_bit(bytes_between(address, position, 0, 128, 255)), end - position)
    if size < WINDOW and position + size == end:
        return size
    return highest_bit(~_words(address, position) & (_ALL >> np.uint64(64 - size))) + 1


@inlined
def _words(address: int, position: int) -> np.uint64:
    """The letters and digits of ASCII among 64 bytes."""
    return bytes_between(address, position, 32, 97, 122) | bytes_between(address, position, 0, 48, 57)


@kernel
def _ascii_words(address: int, position: int, size: int, hashes: Any, count: int) -> int:
    """Add the hashes of the words in a window: of their bytes in lower case, eight at a time."""
    words = _words(address, position) & (_ALL >> np.uint64(64 - size))
    firsts = words & ~(words << _ONE)
    behind = ~words & (words << _ONE)
    while firsts:
        first = lowest_bit(firsts)
        left = lowest_bit(behind) - first
        firsts &= firsts - _ONE
        behind &= behind - _ONE
        at = position + first
        value = hash_start()
        while left > 8:
            value = hash_step(value, peek_8(address, at) | _SMALL)
            at += 8
            left -= 8
        # Digits have the bit of small letters too.
        value = hash_step(value, (peek_8(address, at) | _SMALL) & (_ALL >> np.uint64(64 - 8 * left)))
        hashes[count] = mix(value)
        count += 1
    return count


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
