"""One pass over the bytes of a document: counts of characters, words and lines, and the hashes repetition needs."""

from __future__ import annotations

import numpy as np

from groundup.data.intrinsics import WINDOW, peek, peek_8
from groundup.data.jit import kernel
from groundup.data.kernels import (
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
)
from groundup.data.tags import counts as of
from groundup.data.tags.c4 import LONG_PIECE, SENTENCE_CLOSERS, keeps_line
from groundup.data.tags.c4 import WORDS as C4_WORDS
from groundup.data.tags.ideographs import scan_ideographs
from groundup.data.tags.phrases import JAVASCRIPT, LOREM_IPSUM, POLICY, phrases_in
from groundup.data.tags.repetition import Counts, Hashes, Ints
from groundup.data.tags.stop_words import stop_word
from groundup.data.tags.tokens import is_word, next_class, scan_mark, scan_word, short_word
from groundup.data.tags.window import READ, scan_window, window_size

SHORT_LINE = 30  # characters; an ideograph counts as three


@kernel
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

    counts [counts.COUNTS]: what is counted. limit: where the memory of the text ends. table, ascii_words: addresses of
    `class_table()` and `ascii_word_table()`.
    hashes [capacity], ends and spans [capacity + 1]: of its tokens, as `repetition.repeated_ngrams` takes them.
    line_* [line capacity]: its lines that aren't blank. paragraph_* [line capacity]: its runs of such lines.
    Where a capacity is reached nothing more is stored, and counts[of.MEASURED] tells the characters before.
    """
    counts[:] = 0
    tokens, lines, paragraphs = 0, 0, 0
    at_hashes, at_ends, at_spans = hashes.ctypes.data, ends.ctypes.data, spans.ctypes.data
    storing = True
    any_phrases = phrases_in(data, start, stop) != 0
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
                counts[of.LINES] += 1
                counts[of.BULLET_LINES] += bullet
                counts[of.ELLIPSIS_LINES] += before_code == 0x2026 or (before_code == 46 and before_run >= 3)
                counts[of.TERMINAL_LINES] += before_stop == at and before_kind & TERMINAL != 0
                counts[of.SHORT_LINES] += size + 2 * ideographs <= SHORT_LINE
                phrases = phrases_in(data, line_start, at) if any_phrases else 0
                counts[of.JAVASCRIPT_LINES] += phrases & JAVASCRIPT != 0
                counts[of.POLICY_LINES] += phrases & POLICY != 0
                enough = pieces >= C4_WORDS or ideographs >= C4_WORDS
                if enough and not long_piece and keeps_line(data, line_start, before_stop):
                    if phrases & LOREM_IPSUM:
                        counts[of.LOREM_LINES] += 1
                    elif phrases & JAVASCRIPT == 0 and curly:
                        counts[of.CURLY_LINES] += 1
                    elif phrases == 0:
                        counts[of.C4_LINES] += 1
                        counts[of.C4_SENTENCES] += sentences + 1
                line_hash = hash_bytes(data, line_start, at, limit)
                if paragraph_start < 0:
                    paragraph_start, paragraph_hash = line_character, hash_start()
                paragraph_hash = hash_step(paragraph_hash, line_hash)
                paragraph_stop = character
                if storing:
                    if lines == len(line_hashes):
                        storing = False
                        counts[of.MEASURED] = line_character
                        counts[of.MEASURED_NEWLINES] = counts[of.NEWLINES]
                    else:
                        line_hashes[lines], line_sizes[lines] = line_hash, size
                        lines += 1
            if paragraph_start >= 0 and (not in_line or at >= stop):
                counts[of.PARAGRAPHS] += 1
                if storing:
                    paragraph_hashes[paragraphs] = mix(paragraph_hash)
                    paragraph_sizes[paragraphs] = paragraph_stop - paragraph_start
                    paragraphs += 1
                paragraph_start = -1
            if at >= stop:
                break
            counts[of.NEWLINES] += 1
            spaces += 1
            at += 1
            line_start, line_character = at, at - start - extra
            in_line, pieces, ideographs, piece_start, long_piece = 0, 0, 0, 0, False
            bullet, curly, sentences, ending = False, False, 0, 0
            gap = True
            continue
        code, size = peek(data, at), 1
        if gap and code < 128 and storing and at + READ <= limit and tokens + WINDOW <= len(hashes):
            size = window_size(data, at, stop)
            if size:
                before = tokens
                tokens, first, last, more, ended, ending, bracket, blank = scan_window(
                    data, at, size, limit, ending, before_code == 46, counts, at_hashes, at_ends, at_spans, tokens
                )
                if tokens > before:
                    if in_line == 0:
                        bullet = peek(data, at + first) == 45
                    in_line += tokens - before
                    before_stop, before_code, before_run = at + last + 1, peek(data, at + last), 1
                    before_kind = class_of(table, before_code)
                    if is_word(before_kind):
                        before_code = 0
                    elif last > 1 and peek(data, at + last - 1) == before_code == peek(data, at + last - 2):
                        before_run = 3
                pieces += more
                sentences += ended
                curly = curly or bracket
                spaces += blank
                at += size
                continue
            size = 1
        if storing and 0xE0 <= code < 0xF0:
            run = (
                scan_ideographs(data, at, stop, limit, table, gap, at_hashes, at_ends, at_spans, tokens, len(hashes))
                - tokens
            )
            if run:
                sentences += ending == 2 or (ending and gap)
                ending = 0
                pieces += gap
                tokens += run
                in_line += run
                ideographs += run
                counts[of.TOKENS] += run
                counts[of.WORDS] += run
                counts[of.WORD_CHARACTERS] += run
                counts[of.LETTERS] += run
                counts[of.CJK_LETTERS] += run
                counts[of.ALPHABETIC] += run
                at += 3 * run
                extra += 2 * run
                piece_start = at - start - extra
                before_stop, before_kind, before_code, before_run = at, LETTER | IDEOGRAPH, 0, 1
                gap = at < stop and peek(data, at) == 32
                at += gap
                spaces += gap
                continue
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
                counts[of.LETTERS] += characters
                counts[of.CAPITALS] += capitals
                counts[of.ALPHABETIC] += 1
            else:
                at, more, letters, capitals, digits, hangul, before_kind = scan_word(data, at, stop, table, ascii_words)
                characters = at - token_start - more
                value = hash_bytes(data, token_start, at, limit)
                key = first_bytes(data, token_start, at, limit)
                counts[of.LETTERS] += letters
                counts[of.CAPITALS] += capitals
                counts[of.DIGITS] += digits
                counts[of.CJK_LETTERS] += hangul
                counts[of.ALPHABETIC] += letters > 0
            counts[of.WORDS] += 1
            counts[of.WORD_CHARACTERS] += characters
            counts[of.STOP_WORDS] |= stop_word(key)
            before_code, before_run = 0, 0
        else:
            at, more, run = scan_mark(data, at, stop, code, size, kind, table)
            characters = at - token_start - more
            value = hash_bytes(data, token_start, at, limit)
            before_kind, before_code, before_run = kind, code, run
            if kind & IDEOGRAPH:
                counts[of.WORDS] += 1
                counts[of.WORD_CHARACTERS] += characters
                counts[of.LETTERS] += 1
                counts[of.CJK_LETTERS] += 1
                counts[of.ALPHABETIC] += 1
                ideographs += 1
                piece_start = character + characters
            elif code == 35:
                counts[of.NUMBER_SIGNS] += run
            elif code == 46:
                counts[of.ELLIPSES] += run // 3
            elif code == 0x2026:
                counts[of.ELLIPSES] += run
            elif code == 123:
                curly = True
            if kind & TERMINAL:
                ending = 2 if code >= 0x3000 else 1
        extra += more
        if character + characters - piece_start > LONG_PIECE:
            long_piece = True
        before_stop = at
        in_line += 1
        counts[of.TOKENS] += 1
        if storing:
            if tokens == len(hashes):
                storing = False
                counts[of.MEASURED] = character
                counts[of.MEASURED_NEWLINES] = counts[of.NEWLINES]
            else:
                hashes[tokens] = value
                ends[tokens + 1] = ends[tokens] + characters
                spans[tokens + 1] = spans[tokens] + characters + gap
                tokens += 1
        gap = at < stop and peek(data, at) == 32
        at += gap
        spaces += gap
    counts[of.CHARACTERS] = stop - start - extra
    counts[of.VISIBLE] = counts[of.CHARACTERS] - spaces
    if storing:
        counts[of.MEASURED] = counts[of.CHARACTERS]
        counts[of.MEASURED_NEWLINES] = counts[of.NEWLINES]
    counts[of.UNFINISHED] = stop > start and peek(data, stop - 1) != 10
    counts[of.STORED_TOKENS], counts[of.STORED_LINES], counts[of.STORED_PARAGRAPHS] = tokens, lines, paragraphs
