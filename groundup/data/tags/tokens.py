"""Tokens, as the statistics take them: words, ideographs and punctuation marks.

A word begins at a letter or number that is no ideograph and goes on over letters, numbers and extenders
(marks, format characters), over "_" before a letter or number, over "." before one unless a lower-case letter stands
before it and a capital after it, and over "," ":" "/" between two numbers. An apostrophe (' or U+2019) between two
letters begins a new word: don 't. An ideograph (Han, Hiragana, Katakana) is a word of its own. A run of the same
other character is a punctuation mark. Extenders belong to the token before them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from groundup.data.intrinsics import bits_set, lowest_bit, peek, peek_8
from groundup.data.jit import inlined, kernel
from groundup.data.kernels import (
    DIGIT,
    IDEOGRAPH,
    LETTER,
    PUNCTUATION,
    SPACE,
    UPPER,
    WORD,
    class_of,
    class_table,
    decode,
)

# Of eight bytes at once: the highest bits, the bits of small letters; what lifts a byte from "a" on, or from behind "z"
# on, to 128.
_HIGH_BITS, _CASE_BITS = np.uint64(0x8080808080808080), np.uint64(0x2020202020202020)
_FROM_A, _BEHIND_Z = np.uint64(0x1F1F1F1F1F1F1F1F), np.uint64(0x0505050505050505)

# Counts of letters, capitals and digits of up to this many characters, in three fields of one number.
_PACKED_MOST = 1 << 20
_PACKED_BITS = 21
_PACKED_MASK = (1 << _PACKED_BITS) - 1


@lru_cache(1)
def ascii_word_table() -> npt.NDArray[np.int64]:
    """What a letter or digit of ASCII adds to the packed counts, int64 [256]; 0 for every other byte."""
    classes = class_table()[:256].astype(np.int64)
    letters, digits, capitals = (classes >> bit & 1 for bit in (1, 2, 3))
    packed: npt.NDArray[np.int64] = letters | capitals << _PACKED_BITS | digits << 2 * _PACKED_BITS
    packed[128:] = 0
    return packed


@inlined
def is_word(kind: int) -> bool:
    return kind & WORD != 0 and kind & IDEOGRAPH == 0


@kernel
def next_class(data: int, at: int, stop: int, table: int) -> int:
    if at >= stop:
        return SPACE
    code, _ = decode(data, at, stop)
    return class_of(table, code)


@kernel
def _joins(data: int, at: int, stop: int, table: int, before: int) -> bool:
    """Whether the ASCII mark at a byte belongs to the word whose last character, before it, is of this class."""
    byte = peek(data, at)
    if byte not in (95, 46, 44, 47, 58):
        return False
    after = next_class(data, at + 1, stop, table)
    if not is_word(after):
        return False
    if byte == 95:  # _
        return True
    if byte == 46:  # .
        return not (before & LETTER and not before & UPPER and after & UPPER)
    return before & DIGIT != 0 and after & DIGIT != 0  # , / :


@inlined
def scan_word(data: int, at: int, stop: int, table: int, ascii_words: int) -> tuple[int, int, int, int, int, int, int]:
    """(byte behind the word; extra bytes of its characters; its letters, capitals, digits, Hangul; the class of its
    last character). A first character of any class is taken. ascii_words: address of `ascii_word_table()`."""
    start, extra, kind = at, 0, 0
    letters, capitals, digits, hangul = 0, 0, 0, 0
    while True:
        packed, run = np.int64(0), at
        pause = min(stop, at + _PACKED_MOST)
        while at < pause:
            entry = np.int64(peek_8(ascii_words, 8 * peek(data, at)))
            if entry == 0:
                break
            packed += entry
            at += 1
        if at > run:
            letters += int(packed & _PACKED_MASK)
            capitals += int(packed >> _PACKED_BITS & _PACKED_MASK)
            digits += int(packed >> 2 * _PACKED_BITS)
            kind = class_of(table, peek(data, at - 1))
        if at >= stop:
            break
        byte = peek(data, at)
        if byte < 128:
            if at == pause:
                continue
            if at > start and (byte == 32 or not _joins(data, at, stop, table, kind)):
                break
            kind = PUNCTUATION
            at += 1
            continue
        code, size = decode(data, at, stop)
        here = class_of(table, code)
        if at > start and not is_word(here) and here != 0:
            break
        at += size
        extra += size - 1
        letters += here >> 1 & 1
        digits += here >> 2 & 1
        capitals += here >> 3 & 1
        hangul += here >> 6 & 1
        if here != 0:
            kind = here
    return at, extra, letters, capitals, digits, hangul, kind


@inlined
def short_word(eight: np.uint64) -> tuple[int, int, np.uint64]:
    """(letters, capitals among them, their bytes) of the run of ASCII letters these eight bytes begin with.

    No letters where the word may go on behind the run: after eight letters, before a digit, "." or "_" or a character
    that isn't ASCII.
    """
    letters = (eight | _CASE_BITS) & ~_HIGH_BITS
    letters = (letters + _FROM_A) & ~(letters + _BEHIND_Z) & ~eight & _HIGH_BITS
    others = ~letters & _HIGH_BITS
    if others == 0:
        return 0, 0, eight
    bits = lowest_bit(others) & 0x38
    following = int(eight >> np.uint64(bits)) & 0xFF
    if following >= 128 or following == 46 or following == 95 or 48 <= following <= 57:
        return 0, 0, eight
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    return bits >> 3, bits_set(letters & ~(eight << np.uint64(2)) & mask), eight & mask


@inlined
def scan_mark(data: int, at: int, stop: int, code: int, size: int, kind: int, table: int) -> tuple[int, int, int]:
    """(byte behind the mark or ideograph, extra bytes of its characters, how often it stands in a row)."""
    run, extra = 1, size - 1
    at += size
    while at < stop:
        following, more = peek(data, at), 1
        if following >= 128:
            following, more = decode(data, at, stop)
        if following == code and kind & IDEOGRAPH == 0:
            run += 1
        elif following < 128 or class_of(table, following) != 0:
            break
        at += more
        extra += more - 1
    return at, extra, run
