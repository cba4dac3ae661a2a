"""One pass over the bytes of a document: counts of characters, words and lines, and the hashes repetition needs."""

from __future__ import annotations

import numpy as np
from numba import njit

from groundup.data.kernels import (
    HASH_FACTOR,
    IDEOGRAPH,
    LETTER,
    SPACE,
    TERMINAL,
    UPPER,
    class_of,
    decode,
    first_bytes,
    hash_bytes,
    hash_start,
    hash_step,
    mix,
    peek,
    peek_8,
)
from groundup.data.tags.c4 import LONG_PIECE, SENTENCE_CLOSERS, keeps_line
from groundup.data.tags.c4 import WORDS as C4_WORDS
from groundup.data.tags.phrases import JAVASCRIPT, LOREM_IPSUM, POLICY, phrases_in
from groundup.data.tags.repetition import Counts, Hashes, Ints
from groundup.data.tags.tokens import is_word, next_class, scan_mark, scan_word, short_word

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

# Words of at most eight bytes as little-endian numbers.
STOP_WORD_LIST = ("the", "be", "to", "of", "and", "that", "have", "with")
_STOP_WORD_KEYS = np.array([int.from_bytes(w.encode(), "little") for w in STOP_WORD_LIST], np.uint64)
# Six bits of each key's hash, as a set of 64 bits: a word whose bit isn't set is no stop word.
_KEY_SHIFT, _KEY_BITS = np.uint64(58), np.uint64(32)
_STOP_WORD_BITS = np.uint64(np.bitwise_or.reduce(np.uint64(1) << (_STOP_WORD_KEYS * HASH_FACTOR >> _KEY_SHIFT)))


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
    """Count the document from byte `start` to `stop` at address `data`; store hashes and characters for repetition.

    counts [COUNTS]: what is counted. limit: where the memory of the text ends. table, ascii_words: addresses of
    `class_table()` and `ascii_word_table()`.
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
                enough = pieces >= C4_WORDS or ideographs >= C4_WORDS
                if enough and not long_piece and keeps_line(data, line_start, before_stop):
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
        word = is_word(kind)
        if not word and (code == 39 or code == 0x2019) and not gap and is_word(before_kind) and before_kind & LETTER:
            following = next_class(data, at + size, stop, table)
            word = is_word(following) and following & LETTER != 0
        token_start = at
        if word:
            characters, capitals, key = short_word(peek_8(data, at)) if at + 8 <= limit else (0, 0, hash_start())
            if 0 < characters <= stop - at - 8:
                at += characters
                more, value = 0, hash_step(hash_step(hash_start(), np.uint64(characters)), key)
                before_kind = class_of(table, peek(data, at - 1))
                counts[LETTERS] += characters
                counts[CAPITALS] += capitals
                counts[ALPHABETIC] += 1
            else:
                at, more, letters, capitals, digits, hangul, before_kind = scan_word(data, at, stop, table, ascii_words)
                characters = at - token_start - more
                value = hash_bytes(data, token_start, at, limit)
                key = first_bytes(data, token_start, at, limit)
                counts[LETTERS] += letters
                counts[CAPITALS] += capitals
                counts[DIGITS] += digits
                counts[CJK_LETTERS] += hangul
                counts[ALPHABETIC] += letters > 0
            counts[WORDS] += 1
            counts[WORD_CHARACTERS] += characters
            # At most four bytes.
            if key >> _KEY_BITS == 0 and _STOP_WORD_BITS >> (key * HASH_FACTOR >> _KEY_SHIFT) & np.uint64(1):
                for index in range(len(_STOP_WORD_KEYS)):
                    if _STOP_WORD_KEYS[index] == key:
                        counts[STOP_WORDS] |= 1 << index
            before_code, before_run = 0, 0
        else:
            at, more, run = scan_mark(data, at, stop, code, size, kind, table)
            characters = at - token_start - more
            value = hash_bytes(data, token_start, at, limit)
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
        gap = at < stop and peek(data, at) == 32
        at += gap
        spaces += gap
    counts[CHARACTERS] = stop - start - extra
    counts[VISIBLE] = counts[CHARACTERS] - spaces
    if storing:
        counts[MEASURED] = counts[CHARACTERS]
        counts[MEASURED_NEWLINES] = counts[NEWLINES]
    counts[UNFINISHED] = stop > start and peek(data, stop - 1) != 10
    counts[STORED_TOKENS], counts[STORED_LINES], counts[STORED_PARAGRAPHS] = tokens, lines, paragraphs
