"""The tokens of up to 64 bytes of ASCII at once: what `tokens` defines byte by byte, as arithmetic on sets of bytes.

A set is a uint64 whose bit i stands for the window's byte i (simdjson's way: Langdale and Lemire 2019). A window begins
behind white space and ends behind white space or with the line, so that no token reaches out of it.
"""

from __future__ import annotations

import numpy as np

from groundup.data.intrinsics import (
    WINDOW,
    bits_set,
    bytes_between,
    bytes_equal,
    bytes_repeated,
    highest_bit,
    lowest_bit,
    peek_8,
    peek_uint32,
    poke_uint32,
    poke_uint64,
)
from groundup.data.jit import inlined
from groundup.data.kernels import hash_bytes, hash_start, hash_step
from groundup.data.tags import counts as of
from groundup.data.tags.repetition import Counts
from groundup.data.tags.stop_words import stop_word

READ = WINDOW + 8  # bytes from a window's first on that must be readable: the eight that its last one begins

_ONE, _ALL, _BITS, _EIGHT = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(64), np.uint64(8)


@inlined
def _spaces(data: int, at: int) -> np.uint64:
    return bytes_between(data, at, 0, 9, 13) | bytes_between(data, at, 0, 28, 32)


@inlined
def window_size(data: int, at: int, stop: int) -> int:
    """The bytes of the window at a byte of ASCII that is no line break; 0 where the first token may reach out of it."""
    breaks = bytes_equal(data, at, 10)
    size = min(lowest_bit(bytes_between(data, at, 0, 128, 255) | breaks), stop - at)
    if size < WINDOW and (at + size == stop or breaks >> np.uint64(size) & _ONE):
        return size
    return highest_bit(_spaces(data, at) & (_ALL >> (_BITS - np.uint64(size)))) + 1


@inlined
def scan_window(
    data: int,
    at: int,
    size: int,
    limit: int,
    ending: int,
    point: bool,
    counts: Counts,
    hashes: int,
    ends: int,
    spans: int,
    tokens: int,
) -> tuple[int, int, int, int, int, int, bool, int]:
    """Count and store the tokens of the window of `size` bytes at `at`, as `scan` does, behind `tokens` others.

    hashes, ends, spans: the arrays' addresses.

    ending, point: whether the line's last token before the window ended a sentence, by 2 for sure, and was a ".".
    Returns (tokens now, the places of the first and the last byte that is no white space, -1 where all are; pieces
    between white space; sentences that end; `ending` behind the window; whether there is a "{"; white space).
    """
    inside = _ALL >> (_BITS - np.uint64(size))
    blank = _spaces(data, at) & inside
    seen = inside & ~blank
    letters = bytes_between(data, at, 32, 97, 122) & inside
    capitals = bytes_between(data, at, 0, 65, 90) & inside
    digits = bytes_between(data, at, 0, 48, 57) & inside
    points = bytes_equal(data, at, 46) & inside
    words = letters | digits
    # Marks between two characters of a word that belong to it, and apostrophes, which begin a new one.
    within = seen & ~words & (words << _ONE) & (words >> _ONE)
    of_numbers = bytes_equal(data, at, 44) | bytes_equal(data, at, 47) | bytes_equal(data, at, 58)
    joined = within & (
        bytes_equal(data, at, 95)
        | points & ~((letters & ~capitals) << _ONE & capitals >> _ONE)
        | of_numbers & digits << _ONE & digits >> _ONE
    )
    apostrophes = within & bytes_equal(data, at, 39) & letters << _ONE & letters >> _ONE
    words |= joined | apostrophes
    marks = seen & ~words
    starts = words & ~(words << _ONE) | apostrophes | marks & ~(bytes_repeated(data, at) << _ONE & marks << _ONE)
    lasts = seen & (starts | ~seen) >> _ONE

    counts[of.LETTERS] += bits_set(letters)
    counts[of.CAPITALS] += bits_set(capitals)
    counts[of.DIGITS] += bits_set(digits)
    counts[of.WORD_CHARACTERS] += bits_set(words)
    counts[of.NUMBER_SIGNS] += bits_set(bytes_equal(data, at, 35) & inside)
    counts[of.TOKENS] += bits_set(starts)
    counts[of.WORDS] += bits_set(starts & words)
    # Adding a word's first byte carries through all that aren't letters. Where it comes out is no letter of the word?
    others = words & ~letters
    counts[of.ALPHABETIC] += bits_set(starts & words) - bits_set(((starts & others) + others) & ~others & ~letters)
    dots = points & points >> _ONE & points >> np.uint64(2)
    while dots:
        first = np.uint64(lowest_bit(dots))
        run = lowest_bit(~(points >> first))
        counts[of.ELLIPSES] += run // 3
        dots &= ~(((_ONE << np.uint64(run)) - _ONE) << first)

    before = blank << _ONE | _ONE
    pieces = bits_set(seen & before)
    first_place, last_place = lowest_bit(seen) if seen else -1, highest_bit(seen)

    # Sentences end at white space behind an end mark, or behind what closes one after that, in one line.
    sentences = 0
    small = letters & ~capitals
    if ending and seen:
        sentences += ending == 2 or not (point and small >> np.uint64(first_place) & _ONE)
        ending = 0
    terminals = (points | bytes_equal(data, at, 33) | bytes_equal(data, at, 63)) & marks
    if terminals:
        quotes = bytes_equal(data, at, 34) | bytes_equal(data, at, 39)
        closers = (quotes | bytes_equal(data, at, 41) | bytes_equal(data, at, 93)) & marks
        closers |= bytes_equal(data, at, 125) & marks
        behind = terminals << _ONE
        behind = ((behind & closers) + closers | behind) & ~closers & blank
        while behind:
            place = np.uint64(lowest_bit(behind))
            behind &= behind - _ONE
            following = starts >> place
            if following:
                lower = small >> place >> np.uint64(lowest_bit(following)) & _ONE
                sentences += not (lower and points << _ONE >> place & _ONE)
            else:
                ending = 1

    length, span, stop_words = peek_uint32(ends, tokens), peek_uint32(spans, tokens), 0
    while starts:
        start = lowest_bit(starts)
        characters = lowest_bit(lasts) + 1 - start
        starts &= starts - _ONE
        lasts &= lasts - _ONE
        if characters <= 8:
            key = peek_8(data, at + start) & (_ALL >> (_BITS - _EIGHT * np.uint64(characters)))
            poke_uint64(hashes, tokens, hash_step(hash_step(hash_start(), np.uint64(characters)), key))
            stop_words |= stop_word(key)
        else:
            poke_uint64(hashes, tokens, hash_bytes(data, at + start, at + start + characters, limit))
        length += characters
        span += characters + int(np.int64(before >> np.uint64(start) & _ONE))
        tokens += 1
        poke_uint32(ends, tokens, length)
        poke_uint32(spans, tokens, span)
    counts[of.STOP_WORDS] |= stop_words
    bracket = bytes_equal(data, at, 123) & inside != 0
    return tokens, first_place, last_place, pieces, sentences, ending, bracket, bits_set(blank)
