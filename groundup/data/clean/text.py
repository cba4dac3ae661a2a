"""Mend text without changing what it says: one text by its definition, or an array of texts by one pass over bytes."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from groundup.data.clean.lines import LINE_RULES, automaton, holds_phrase, told_by
from groundup.data.clean.mojibake import may_be_mojibake, mend
from groundup.data.clean.spaces import space_length
from groundup.data.intrinsics import WINDOW, bytes_between, bytes_equal, copy_window, lowest_bit
from groundup.data.jit import inlined, kernel
from groundup.data.kernels import class_table
from groundup.data.tags.c4 import drops_line
from groundup.data.texts import Bytes, buffers, from_buffers

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
_TRAILING = re.compile(r"[ \t]+\n")
_BLANK_LINES = re.compile(r"\n{4,}")
_REPLACEMENT = b"\xef\xbf\xbd"
# Code points from here on are stable under composition, but for the compatibility ideographs that begin here.
_PLANES_LOOKED_AT = 0x2FA20
# Bytes looked at together.
_BLOCK = 16
_ONE, _LAST = np.uint64(1), np.uint64(1 << 63)
C4 = "c4"  # beside the names of `LINE_RULES`


def clean(text: str) -> str:
    """Line ends as \\n, no control characters, Unicode in composed form (NFC), no spaces at line ends, no more than
    two blank lines in a row, nothing around the whole."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text)
    text = unicodedata.normalize("NFC", text)
    text = _TRAILING.sub("\n", text)
    return _BLANK_LINES.sub("\n\n\n", text).strip()


@dataclass
class Cleaned:
    """`texts` in the order they came in, and what was done: counts over all of them.

    composed: texts that were not in NFC; repaired: texts with mojibake undone; replacements: U+FFFD characters, which
    stand where earlier software met bytes it could not read; lines: lines dropped, by rule. `dropped`: lines dropped of
    each text, int64 [N].
    """

    texts: pa.LargeStringArray
    composed: int = 0
    repaired: int = 0
    replacements: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    dropped: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def clean_texts(texts: pa.LargeStringArray, lines: frozenset[str] = frozenset(), repair: bool = False) -> Cleaned:
    """What `clean` makes of each of `texts` (no nulls), by one pass over the bytes.

    `lines`: names of rules in `LINE_RULES`; lines that one of them tells are dropped (`drop_lines` is the definition).
    With C4 among them, lines that C4 takes out of a page go too (`groundup.data.tags.c4.drops_line`).
    `repair`: undo mojibake first (`groundup.data.clean.mojibake`), which guesses and so is off unless asked for.
    Lone surrogates can't be in an Arrow string: readers count a record that holds one as malformed.

    Raises ValueError for a rule that does not exist.
    """
    result = Cleaned(texts)
    offsets, data = buffers(texts)
    other = np.zeros(len(texts), np.uint8)
    result.replacements = _suspects(offsets, data, _unstable(), other, repair)
    if other.any():
        texts = _rewritten(texts, other, result, repair)
        offsets, data = buffers(texts)
    names = [name for name in LINE_RULES if name in lines]
    unknown = lines - {*names, C4}
    if unknown:
        raise ValueError(f"no such line rule: {', '.join(sorted(unknown))}")
    dropped = np.zeros((len(texts), len(names) + 1), np.int64)
    new_offsets = np.zeros(len(texts) + 1, np.int64)
    out = np.empty(int(offsets[-1] - offsets[0]) + WINDOW, np.uint8)
    rules = automaton(tuple(names))
    _clean(
        offsets, data, _classes(), rules.fold, rules.next, rules.stays, rules.tells, rules.most_words, rules.longest,
        C4 in lines, class_table(), new_offsets, out, dropped,
    )  # fmt: skip
    result.texts = from_buffers(new_offsets, out[: new_offsets[-1]])
    result.lines = {name: int(count) for name, count in zip([*names, C4], dropped.sum(0), strict=True) if count}
    result.dropped = dropped.sum(1)
    return result


_NOT_COMPOSED, _MOJIBAKE = 1, 2


def _rewritten(texts: pa.LargeStringArray, other: Bytes, result: Cleaned, repair: bool) -> pa.LargeStringArray:
    """`texts` with the suspects among them composed and repaired."""
    changed: dict[int, str] = {}
    for row in np.flatnonzero(other).tolist():
        before = text = texts[row].as_py()
        if repair and other[row] & _MOJIBAKE:
            text = mend(text)
            result.repaired += text != before
        bare = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
        if not unicodedata.is_normalized("NFC", bare):
            result.composed += 1
            text = unicodedata.normalize("NFC", bare)
        if text != before:
            changed[row] = text
    if not changed:
        return texts
    rows = sorted(changed)
    pieces: list[pa.Array] = []
    done = 0
    for row in rows:
        pieces += [texts.slice(done, row - done), pa.array([changed[row]], pa.large_string())]
        done = row + 1
    return pa.concat_arrays([*pieces, texts.slice(done)])


@cache
def _unstable() -> npt.NDArray[np.bool_]:
    """By code point: can a text with this character be other than NFC? Where none is, the text is NFC.

    These are the characters with a combining class, those that are not themselves in NFC, and those that follow
    another one in a canonical decomposition, vowels and tails of Hangul among them (Unicode Standard Annex 15,
    section 9, "Detecting Normalization Forms").
    """
    unstable = np.zeros(_PLANES_LOOKED_AT, np.bool_)
    unstable[0x1161:0x1176] = unstable[0x11A7:0x11C3] = True
    for code in range(0x300, _PLANES_LOOKED_AT):
        character = chr(code)
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            unstable[code] = True
    for code in range(0xC0, _PLANES_LOOKED_AT):
        decomposition = unicodedata.decomposition(chr(code))
        if decomposition and decomposition[0] != "<":
            unstable[[int(part, 16) for part in decomposition.split()[1:]]] = True
    return unstable


@kernel
def _suspects(offsets, data, unstable, other, repair):  # type: ignore[no-untyped-def]
    """Mark in `other` the texts that may not be NFC, or may hold mojibake. Returns how many U+FFFD there are."""
    replacements = 0
    for row in range(len(offsets) - 1):
        i, end = offsets[row], offsets[row + 1]
        while i < end:
            while i + _BLOCK <= end:
                high = np.uint8(0)
                for k in range(np.uintp(i), np.uintp(i + _BLOCK)):
                    high |= data[k]
                if high >= 0x80:
                    break
                i += _BLOCK
            if i >= end:
                break
            byte = data[i]
            if byte < 0x80:
                i += 1
                continue
            if byte < 0xE0:
                code = (byte & 0x1F) << 6 | (data[i + 1] & 0x3F)
                if repair and byte == 0xC3 and may_be_mojibake(data, i, end):
                    other[row] |= _MOJIBAKE
                i += 2
            elif byte < 0xF0:
                code = (byte & 0x0F) << 12 | (data[i + 1] & 0x3F) << 6 | (data[i + 2] & 0x3F)
                if code == 0xFFFD:
                    replacements += 1
                i += 3
            else:
                code = (byte & 0x07) << 18 | (data[i + 1] & 0x3F) << 12 | (data[i + 2] & 0x3F) << 6
                code |= data[i + 3] & 0x3F
                i += 4
            if code >= 0x300 and code < len(unstable) and unstable[code]:
                other[row] |= _NOT_COMPOSED
    return replacements


_COPY, _DROP, _LINE_FEED, _RETURN, _C2, _EF = range(6)


@cache
def _classes() -> Bytes:
    """By first byte of a character: what `_clean` does with it."""
    classes = np.full(256, _COPY, np.uint8)
    classes[:0x20] = _DROP
    classes[0x7F] = _DROP
    classes[0x09] = _COPY
    classes[0x0A], classes[0x0D], classes[0xC2], classes[0xEF] = _LINE_FEED, _RETURN, _C2, _EF
    return classes


@kernel
def _clean(  # type: ignore[no-untyped-def]
    offsets, data, classes, fold, follow, stays, tells, most_words, longest, c4, characters, new_offsets, out, dropped
):
    w = 0
    for row in range(len(offsets) - 1):
        start, line_by_line = w, c4
        while True:
            w = _clean_one(
                offsets[row], offsets[row + 1], data, classes, fold, follow, tells, most_words, line_by_line, c4,
                characters, start, out, dropped[row],
            )  # fmt: skip
            # Few texts hold a phrase: the lines of others needn't be looked at one by one.
            if line_by_line or not len(most_words) or not holds_phrase(out, start, w, fold, stays, tells, longest):
                break
            line_by_line = True
        new_offsets[row + 1] = w


@inlined
def _special(data: int, at: int) -> np.uint64:
    """Which of the 64 bytes from there on aren't to be copied, or not by themselves, as a set of bits: control
    characters but the tab, and what begins those of two bytes and a byte order mark, or would with what is beyond."""
    one = bytes_between(data, at, 0, 0, 8) | bytes_between(data, at, 0, 10, 31) | bytes_equal(data, at, 0x7F)
    two = bytes_equal(data, at, 0xC2) & (bytes_between(data, at, 0, 0x80, 0x9F) >> _ONE | _LAST)
    mark = bytes_equal(data, at, 0xEF) & (bytes_equal(data, at, 0xBB) >> _ONE | _LAST)
    return one | two | mark


@kernel
def _clean_one(
    i: int,
    end: int,
    data: Bytes,
    classes: Bytes,
    fold: Bytes,
    follow: npt.NDArray[np.uint16],
    tells: npt.NDArray[np.int64],
    most_words: npt.NDArray[np.int64],
    line_by_line: bool,
    c4: bool,
    characters: Bytes,
    start: int,
    out: Bytes,
    dropped: npt.NDArray[np.int64],
) -> int:
    """Write the clean text of data[i:end] to out[start:]; where it ends."""
    w = line = start
    leading = True
    while i <= end:
        if leading:
            while i < end:
                length = space_length(data, i)
                if length == 0:
                    break
                i += length
            leading = False
        # 64 bytes are copied as long as they may be read, even where the text ends before; what is too much is
        # overwritten.
        while i < end and i + WINDOW <= len(data):
            copy_window(data.ctypes.data, i, out.ctypes.data, w)
            copied = min(lowest_bit(_special(data.ctypes.data, i)), end - i)
            i += copied
            w += copied
            if copied < WINDOW:
                break
        while i < end and classes[data[np.uintp(i)]] == _COPY:
            out[np.uintp(w)] = data[np.uintp(i)]
            w += 1
            i += 1
        byte = data[i] if i < end else np.uint8(0x0A)
        kind = classes[byte]
        if kind in (_LINE_FEED, _RETURN):
            if kind == _RETURN and i + 1 < end and data[i + 1] == 0x0A:
                i += 1
            i += 1
            if line_by_line:
                rule = told_by(out, line, w, fold, follow, tells, most_words) if len(most_words) else -1
                if rule < 0 and c4 and drops_line(out.ctypes.data, line, w, characters.ctypes.data):
                    rule = len(most_words)
                if rule >= 0:
                    dropped[rule] += 1
                    w = line
                    leading = w == start
                    continue
            while w > start and (out[w - 1] == 0x20 or out[w - 1] == 0x09):
                w -= 1
            if i > end:
                break
            if w == start:
                leading = True
            elif w - start < 3 or out[w - 1] != 0x0A or out[w - 2] != 0x0A or out[w - 3] != 0x0A:
                out[w] = 0x0A
                w += 1
            line = w
        elif kind == _DROP:
            i += 1
        elif kind == _C2:
            if data[i + 1] >= 0xA0:
                out[w], out[w + 1] = byte, data[i + 1]
                w += 2
            i += 2
        else:
            if data[i + 1] != 0xBB or data[i + 2] != 0xBF:
                out[w], out[w + 1], out[w + 2] = byte, data[i + 1], data[i + 2]
                w += 3
            i += 3
    while w > start:
        last = w - 1
        while last > start and out[last] & 0xC0 == 0x80:
            last -= 1
        if space_length(out, last) == 0:
            break
        w = last
    return w
