"""What the byte kernels share: decoding UTF-8, classes of characters, hashes.

The classes come from the `unicodedata` of the running Python; its version is `UNICODE_VERSION`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from functools import lru_cache

import numpy as np

from groundup.data.intrinsics import peek, peek_8
from groundup.data.jit import inlined, kernel
from groundup.data.texts import Bytes

UNICODE_VERSION = unicodedata.unidata_version

# Bits of a character's class. A character with no bit is an extender: a combining mark or a format character.
SPACE = 1  # what str.isspace takes for white space
LETTER = 2  # categories L*
DIGIT = 4  # categories N*
UPPER = 8  # Lu and Lt
PUNCTUATION = 16  # P*, S*, control characters and what has no character
IDEOGRAPH = 32  # Han, Hiragana, Katakana: written without spaces, so a word is taken to be one character
HANGUL = 64
TERMINAL = 128  # ends a sentence: Unicode's Sentence_Terminal, fullwidth and small forms included
WORD = LETTER | DIGIT
CJK = IDEOGRAPH | HANGUL

REPLACEMENT = 0xFFFD
_TABLE_SIZE = 0x20000

_IDEOGRAPHS = (
    (0x3005, 0x3007),
    (0x3041, 0x3096),
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
)
_HANGUL = (
    (0x1100, 0x11FF),
    (0x3131, 0x318E),
    (0xA960, 0xA97C),
    (0xAC00, 0xD7FB),
    (0xFFA0, 0xFFDC),
)
# Property Sentence_Terminal (PropList.txt), with U+FF0E and U+FF61, as hexadecimal ranges.
_TERMINALS = """
21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6
17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 2E2E
2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57
FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD
111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946
11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""

# By Unicode's general category; all others are punctuation.
_CLASSES = defaultdict(
    lambda: PUNCTUATION,
    {"Lu": LETTER | UPPER, "Lt": LETTER | UPPER, "Ll": LETTER, "Lm": LETTER, "Lo": LETTER}
    | {"Nd": DIGIT, "Nl": DIGIT, "No": DIGIT, "Mn": 0, "Mc": 0, "Me": 0, "Cf": 0},
)

_HASH_SEED = np.uint64(0xCBF29CE484222325)
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_27, _SHIFT_30, _SHIFT_31, _SHIFT_32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_ONE = np.uint64(1)


@lru_cache(1)
def class_table() -> Bytes:
    """Classes of the code points below 0x20000, uint8 [0x20000]; `class_of` looks up in it."""
    chars = np.arange(_TABLE_SIZE, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.frombuffer(bytearray(map(_CLASSES.__getitem__, map(unicodedata.category, chars))), np.uint8)
    table[[space.start() for space in re.finditer(r"\s", chars)]] = SPACE
    for first, last in _IDEOGRAPHS:
        codes = table[first : last + 1]
        codes[(codes & WORD) != 0] = LETTER | IDEOGRAPH
    for first, last in _HANGUL:
        codes = table[first : last + 1]
        codes[(codes & LETTER) != 0] |= HANGUL
    for part in _TERMINALS.split():
        low, _, high = part.partition("-")
        table[int(low, 16) : int(high or low, 16) + 1] |= TERMINAL | PUNCTUATION
    table.flags.writeable = False
    return table


@inlined
def class_of(table: int, code: int) -> int:
    """The class of a code point; `table` is the address of `class_table()`.

    Above the table stand ideographs, then variation selectors and tags.
    """
    if code < 0x20000:
        return peek(table, code)
    if code < 0x40000:
        return LETTER | IDEOGRAPH
    return 0 if 0xE0000 <= code < 0xE0200 else PUNCTUATION


@inlined
def decode(data: int, at: int, stop: int) -> tuple[int, int]:
    """(code point, bytes it takes) of the character at byte `at` of the text at address `data` that ends before
    `stop`. What is no UTF-8 is one byte of U+FFFD."""
    code, size = peek(data, at), 1
    if code >= 0x80:
        first = code
        code = 0xFFFD
        if 0xC2 <= first <= 0xF4:
            more = 1 if first < 0xE0 else (2 if first < 0xF0 else 3)
            if at + more < stop:
                value = first & (0x3F >> more)
                good = True
                for offset in range(1, more + 1):
                    byte = peek(data, at + offset)
                    good = good and byte & 0xC0 == 0x80
                    value = value << 6 | byte & 0x3F
                if more == 2:
                    good = good and value >= 0x800
                elif more == 3:
                    good = good and 0x10000 <= value <= 0x10FFFF
                if good:
                    code, size = value, more + 1
    return code, size


@kernel
def last_character(data: int, start: int, stop: int) -> tuple[int, int]:
    """(code point, bytes it takes) of the character that ends before byte `stop`; (U+FFFD, 0) where there is none."""
    at = stop - 1
    if at < start:
        return 0xFFFD, 0
    while at > start and stop - at < 4 and peek(data, at) & 0xC0 == 0x80:
        at -= 1
    code, size = decode(data, at, stop)
    return (code, size) if at + size == stop else (0xFFFD, 1)


@inlined
def hash_start() -> np.uint64:
    """Where a rolling hash begins."""
    return _HASH_SEED


@inlined
def hash_step(value: np.uint64, item: np.uint64) -> np.uint64:
    """The rolling 64-bit hash after one more item (a byte, eight bytes, a code point or another hash)."""
    value = (value ^ item) * HASH_FACTOR
    return value ^ (value >> _SHIFT_32)


@inlined
def first_bytes(data: int, at: int, stop: int, limit: int) -> np.uint64:
    """The at most eight bytes from `at` to `stop` as a little-endian number; the text's memory ends at `limit`."""
    size = min(stop - at, 8)
    if at + 8 <= limit:
        value = peek_8(data, at)
        if size < 8:
            value &= (_ONE << np.uint64(8 * size)) - _ONE
    else:
        value = np.uint64(0)
        for offset in range(size):
            value |= np.uint64(peek(data, at + offset)) << np.uint64(8 * offset)
    return value


@inlined
def hash_bytes(data: int, start: int, stop: int, limit: int) -> np.uint64:
    """The 64-bit hash of the bytes from `start` to `stop`; the text's memory ends at `limit`."""
    value = hash_step(_HASH_SEED, np.uint64(stop - start))
    at = start
    while at + 8 <= stop:
        value = hash_step(value, peek_8(data, at))
        at += 8
    if at < stop:
        value = hash_step(value, first_bytes(data, at, stop, limit))
    return value


@inlined
def mix(value: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of the value."""
    value = (value ^ (value >> _SHIFT_30)) * _MIX_1
    value = (value ^ (value >> _SHIFT_27)) * _MIX_2
    return value ^ (value >> _SHIFT_31)
