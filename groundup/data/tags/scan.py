"""One pass over the bytes of a document: counts of characters, words and lines, and the hashes repetition needs.

Tokens. A word begins at a letter or number that is no ideograph and goes on over letters, numbers and extenders
(marks, format characters), over "_" before a letter or number, over "." before one unless a lower-case letter stands
before it and a capital after it, and over "," ":" "/" between two numbers. An apostrophe (' or U+2019) between two
letters begins a new word: don 't. An ideograph (Han, Hiragana, Katakana) is a word of its own. A run of the same
other character is a punctuation mark. Extenders belong to the token before them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from groundup.data.kernels import (
    DIGIT,
    IDEOGRAPH,
    LETTER,
    PUNCTUATION,
    SPACE,
    TERMINAL,
    UPPER,
    WORD,
    class_of,
    class_table,
    decode,
    first_bytes,
    hash_bytes,
    hash_start,
    hash_step,
    mix,
    peek,
    peek_8,
)
from groundup.data.tags.c4 import SENTENCE_CLOSERS, keeps_line
from groundup.data.tags.phrases import JAVASCRIPT, LOREM_IPSUM, POLICY, phrases_in
from groundup.data.tags.repetition import Counts, Hashes, Ints

# Places in a document's row of counts.
CHARACTERS = 0
VISIBLE = 1  # characters that are no white space
LETTERS = 2
CAPITALS = 3
DIGITS = 4
CJK_LETTERS = 5
WORDS = 6
WORD_CHARACTERS = 7
TOKENS = 8
ALPHABETIC = 9
NUMBER_SIGNS = 10
ELLIPSES = 11
STOP_WORDS = 12  # as bits while scanning
NEWLINES = 13
LINES = 14  # not blank
BULLET_LINES = 15
ELLIPSIS_LINES = 16
TERMINAL_LINES = 17
SHORT_LINES = 18
PARAGRAPHS = 19
C4_LINES = 20
C4_SENTENCES = 21
CURLY_LINES = 22
LOREM_LINES = 23
JAVASCRIPT_LINES = 24
POLICY_LINES = 25
MEASURED = 26  # characters before the limit of what is searched for repetitions
MEASURED_NEWLINES = 27
STORED_TOKENS = 28
STORED_LINES = 29
STORED_PARAGRAPHS = 30
UNFINISHED = 31  # 1 where the last line has no line break and isn't empty
COUNTS = 32

SHORT_LINE = 30  # characters; an ideograph counts as three
LONG_PIECE = 1000  # characters

# Words of at most eight bytes as little-endian numbers.
STOP_WORD_LIST = ("the", "be", "to", "of", "and", "that", "have", "with")
_STOP_WORD_KEYS = np.array([int.from_bytes(w.encode(), "little") for w in STOP_WORD_LIST], np.uint64)

# Counts of letters, capitals and digits of up to this many characters, in three fields of one number.
_PACKED_MOST = 1 << 20
_PACKED_BITS = 21
_PACKED_MASK = (1 << _PACKED_BITS) - 1


@lru_cache(1)
def ascii_word_table() -> Counts:
    """What a letter or digit of ASCII adds to the packed counts, int64 [256]; 0 for every other byte."""
    classes = class_table()[:256].astype(np.int64)
    letters, digits, capitals = (classes >> bit & 1 for bit in (1, 2, 3))
    packed: Counts = letters | capitals << _PACKED_BITS | digits << 2 * _PACKED_BITS
    packed[128:] = 0
    return packed


@njit(cache=True, nogil=True, inline="always")
def _is_word(kind: int) -> bool:
    return kind & WORD != 0 and kind & IDEOGRAPH == 0


@njit(cache=True, nogil=True)
def _next_class(data: int, at: int, stop: int, table: int) -> int:
    if at >= stop:
        return SPACE
    code, _ = decode(data, at, stop)
    return class_of(table, code)


@njit(cache=True, nogil=True)
def _joins(data: int, at: int, stop: int, table: int, before: int) -> bool:
    """Whether the ASCII mark at a byte belongs to the word whose last character, before it, is of this class."""
    byte = peek(data, at)
    if byte not in (95, 46, 44, 47, 58):
        return False
    after = _next_class(data, at + 1, stop, table)
    if not _is_word(after):
        return False
    if byte == 95:  # _
        return True
    if byte == 46:  # .
        return not (before & LETTER and not before & UPPER and after & UPPER)
    return before & DIGIT != 0 and after & DIGIT != 0  # , / :


@njit(cache=True, nogil=True, inline="always")
def _scan_word(data: int, at: int, stop: int, table: int, ascii_words: int) -> tuple[int, int, int, int, int, int, int]:
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
            letters += packed & _PACKED_MASK
            capitals += packed >> _PACKED_BITS & _PACKED_MASK
            digits += packed >> 2 * _PACKED_BITS
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
        if at > start and not _is_word(here) and here != 0:
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


@njit(cache=True, nogil=True, inline="always")
def _scan_mark(data: int, at: int, stop: int, code: int, size: int, kind: int, table: int) -> tuple[int, int, int]:
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


@njit(cache=True, nogil=True)
def scan(
    data: int,
    start: int,
    stop: int,
    limit: int,
    table: int,
    ascii_words: int,
    counts: Counts,
    hashes: Hashes,
    ends: Ints,
    spans: Ints,
    line_hashes: Hashes,
    line_sizes: Ints,
    paragraph_hashes: Hashes,
    paragraph_sizes: Ints,
) -> None:
    """Count the document from byte `start` to `stop` at address `data` into counts [COUNTS], and store hashes and characters for repetition.

    limit: where the memory of the text ends. table, ascii_words: addresses of `class_table()`, `ascii_word_table()`.
    hashes [capacity], ends and spans [capacity + 1]: of its tokens, as `repetition.repeated_ngrams` takes them.
    line_* [line capacity]: its lines that aren't blank. paragraph_* [line capacity]: its runs of such lines.
    Where a capacity is reached nothing more is stored, and counts[MEASURED] tells the characters before.
    """
    counts[:] = 0
    tokens, lines, paragraphs = 0, 0, 0
    storing = True
    at, extra, spaces = start, 0, 0
    ends[0], spans[0] = 0, 0
    paragraph_hash, paragraph_start, paragraph_stop = hash_start(), -1, 0
    # The line: where it begins (byte, character), what came in it.
    line_start, line_character = start, 0
    in_line, pieces, ideographs, piece_start, long_piece = 0, 0, 0, 0, False
    bullet, curly, sentences, ending = False, False, 0, 0
    gap = True
    # The token before.
    before_stop, before_kind, before_code, before_run = start, 0, 0, 0
    while True:
        if at >= stop or peek(data, at) == 10:
            character = at - start - extra
            if in_line:
                size = character - line_character
                counts[LINES] += 1
                counts[BULLET_LINES] += bullet
                counts[ELLIPSIS_LINES] += before_code == 0x2026 or (before_code == 46 and before_run >= 3)
                counts[TERMINAL_LINES] += before_stop == at and before_kind & TERMINAL != 0
                counts[SHORT_LINES] += size + 2 * ideographs <= SHORT_LINE
                phrases = phrases_in(data, line_start, at)
                counts[JAVASCRIPT_LINES] += phrases & JAVASCRIPT != 0
                counts[POLICY_LINES] += phrases & POLICY != 0
                if not long_piece and (pieces >= 3 or ideographs >= 3) and keeps_line(data, line_start, before_stop):
                    if phrases & LOREM_IPSUM:
                        counts[LOREM_LINES] += 1
                    elif phrases & JAVASCRIPT == 0 and curly:
                        counts[CURLY_LINES] += 1
                    elif phrases == 0:
                        counts[C4_LINES] += 1
                        counts[C4_SENTENCES] += sentences + 1
                line_hash = hash_bytes(data, line_start, at, limit)
                if paragraph_start < 0:
                    paragraph_start, paragraph_hash = line_character, hash_start()
                paragraph_hash = hash_step(paragraph_hash, line_hash)
                paragraph_stop = character
                if storing:
                    if lines == len(line_hashes):
                        storing = False
                        counts[MEASURED] = line_character
                        counts[MEASURED_NEWLINES] = counts[NEWLINES]
                    else:
                        line_hashes[lines], line_sizes[lines] = line_hash, size
                        lines += 1
            if paragraph_start >= 0 and (not in_line or at >= stop):
                counts[PARAGRAPHS] += 1
                if storing:
                    paragraph_hashes[paragraphs] = mix(paragraph_hash)
                    paragraph_sizes[paragraphs] = paragraph_stop - paragraph_start
                    paragraphs += 1
                paragraph_start = -1
            if at >= stop:
                break
            counts[NEWLINES] += 1
            spaces += 1
            at += 1
            line_start, line_character = at, at - start - extra
            in_line, pieces, ideographs, piece_start, long_piece = 0, 0, 0, 0, False
            bullet, curly, sentences, ending = False, False, 0, 0
            gap = True
            continue
        code, size = peek(data, at), 1
        if code < 128:
            kind = class_of(table, code)
        else:
            code, size = decode(data, at, stop)
            kind = class_of(table, code)
        if kind & SPACE:
            spaces += 1
            at += size
            extra += size - 1
            gap = True
            continue
        character = at - start - extra
        if in_line == 0:
            bullet = code == 45 or code == 0x2022
        if gap:
            pieces += 1
            piece_start = character
        if ending and not (code in SENTENCE_CLOSERS and not gap):
            # A sentence ends before white space, or at an end mark of a script without spaces.
            lower = kind & LETTER != 0 and code < 128 and kind & UPPER == 0
            sentences += ending == 2 or (gap and not (lower and before_code == 46))
            ending = 0
        word = _is_word(kind)
        if not word and (code == 39 or code == 0x2019) and not gap and _is_word(before_kind) and before_kind & LETTER:
            following = _next_class(data, at + size, stop, table)
            word = _is_word(following) and following & LETTER != 0
        token_start = at
        if word:
            at, more, letters, capitals, digits, hangul, before_kind = _scan_word(data, at, stop, table, ascii_words)
            characters = at - token_start - more
            value = hash_bytes(data, token_start, at, limit)
            counts[WORDS] += 1
            counts[WORD_CHARACTERS] += characters
            counts[LETTERS] += letters
            counts[CAPITALS] += capitals
            counts[DIGITS] += digits
            counts[CJK_LETTERS] += hangul
            counts[ALPHABETIC] += letters > 0
            if 2 <= at - token_start <= 4:
                key = first_bytes(data, token_start, at, limit)
                for index in range(len(_STOP_WORD_KEYS)):
                    if _STOP_WORD_KEYS[index] == key:
                        counts[STOP_WORDS] |= 1 << index
            before_code, before_run = 0, 0
        else:
            at, more, run = _scan_mark(data, at, stop, code, size, kind, table)
            characters = at - token_start - more
            value = hash_step(hash_step(hash_start(), np.uint64(code)), np.uint64(run))
            before_kind, before_code, before_run = kind, code, run
            if kind & IDEOGRAPH:
                counts[WORDS] += 1
                counts[WORD_CHARACTERS] += characters
                counts[LETTERS] += 1
                counts[CJK_LETTERS] += 1
                counts[ALPHABETIC] += 1
                ideographs += 1
                piece_start = character + characters
            elif code == 35:
                counts[NUMBER_SIGNS] += run
            elif code == 46:
                counts[ELLIPSES] += run // 3
            elif code == 0x2026:
                counts[ELLIPSES] += run
            elif code == 123:
                curly = True
            if kind & TERMINAL:
                ending = 2 if code >= 0x3000 else 1
        extra += more
        if character + characters - piece_start > LONG_PIECE:
            long_piece = True
        before_stop = at
        in_line += 1
        counts[TOKENS] += 1
        if storing:
            if tokens == len(hashes):
                storing = False
                counts[MEASURED] = character
                counts[MEASURED_NEWLINES] = counts[NEWLINES]
            else:
                hashes[tokens] = value
                ends[tokens + 1] = ends[tokens] + characters
                spans[tokens + 1] = spans[tokens] + characters + gap
                tokens += 1
        gap = False
    counts[CHARACTERS] = stop - start - extra
    counts[VISIBLE] = counts[CHARACTERS] - spaces
    if storing:
        counts[MEASURED] = counts[CHARACTERS]
        counts[MEASURED_NEWLINES] = counts[NEWLINES]
    counts[UNFINISHED] = stop > start and peek(data, stop - 1) != 10
    counts[STORED_TOKENS], counts[STORED_LINES], counts[STORED_PARAGRAPHS] = tokens, lines, paragraphs
