"""Which lines C4 keeps (Raffel et al. 2020, arXiv:1910.10683, section 2.2; tensorflow_datasets, c4_utils).

English lines are judged as published: an end mark, 3 words, no word of more than 1000 characters, no JavaScript, no
policy. (The paper has 3 words a line and 5 sentences a page; c4_utils has the two numbers the other way round.)
In Chinese and Japanese a character is a word, and their own end marks end a sentence. Other scripts' marks don't, so
pages in Hindi or Arabic, say, lose their lines.
"""

from __future__ import annotations

from groundup.data.intrinsics import peek
from groundup.data.jit import kernel
from groundup.data.kernels import IDEOGRAPH, SPACE, class_of, decode, last_character
from groundup.data.tags.phrases import JAVASCRIPT, LOREM_IPSUM, phrases_in

WORDS = 3  # of a line at least, or ideographs
LONG_PIECE = 1000  # characters of a word at most; an ideograph ends one

# Characters that may stand between the end mark of a sentence and the white space behind it.
SENTENCE_CLOSERS = tuple(ord(c) for c in "\"')]}\u2019\u201d\u300d\u300f\uff09\u3011\u300b\u3009")
_END_MARKS = tuple(ord(c) for c in "\"'\u2019\u201d\u300d\u300f")
_FULLWIDTH = tuple(ord(c) for c in "\u3002\uff01\uff1f\uff0e\uff61")
_EDIT = tuple(b"[edit]")
_CITATION_NEEDED = tuple(b"[citation needed]")


@kernel
def keeps_line(data: int, start: int, stop: int) -> bool:
    """Whether the line from byte `start` to `stop` of the text at address `data`, without the white space at its end,
    ends like a sentence.

    Marks of citations, [12], [], [edit], [citation needed], are left out at the end. It must end with . ? ! " (C4's
    marks) or ' (datatrove's too) or, added here, with a curly or corner closing quote or a full-width . ? !, and not
    with three points.
    """
    while stop > start and peek(data, stop - 1) == 93:
        cut = _without_citation(data, start, stop)
        if cut == stop:
            return False
        stop = cut
    code, _ = last_character(data, start, stop)
    if code == 46:
        return not (stop - start >= 3 and peek(data, stop - 2) == 46 and peek(data, stop - 3) == 46)
    return code == 33 or code == 63 or code in _END_MARKS or code in _FULLWIDTH


@kernel
def drops_line(data: int, start: int, stop: int, table: int) -> bool:
    """Whether C4 takes the line from byte `start` to `stop` of the text at address `data` out of its page.

    Lines with lorem ipsum or a curly bracket that end like a sentence stay: for them the whole page goes. A blank line
    stays too. `table`: address of `class_table()`.
    """
    words, ideographs, characters, word_start, last = 0, 0, 0, 0, start
    gap, curly, long_word = True, False, False
    at = start
    while at < stop:
        code, size = decode(data, at, stop)
        at += size
        kind = class_of(table, code)
        if kind & SPACE:
            gap = True
        else:
            if gap:
                words += 1
                word_start = characters
            gap = False
            last = at
            curly = curly or code == 123
            if kind & IDEOGRAPH:
                ideographs += 1
                word_start = characters + 1
            long_word = long_word or characters + 1 - word_start > LONG_PIECE
        characters += 1
    if last == start:
        return False
    if long_word or (words < WORDS and ideographs < WORDS) or not keeps_line(data, start, last):
        return True
    phrases = phrases_in(data, start, stop)
    if phrases & LOREM_IPSUM:
        return False
    return phrases & JAVASCRIPT != 0 or (phrases != 0 and not curly)


@kernel
def _without_citation(data: int, start: int, stop: int) -> int:
    """Where the citation that ends at `stop` begins; `stop` where there is none."""
    at = stop - 2
    while at > start and 48 <= peek(data, at) <= 57:
        at -= 1
    if at >= start and peek(data, at) == 91:
        return at
    if _ends_with(data, start, stop, _EDIT):
        return stop - len(_EDIT)
    if _ends_with(data, start, stop, _CITATION_NEEDED):
        return stop - len(_CITATION_NEEDED)
    return stop


@kernel
def _ends_with(data: int, start: int, stop: int, mark: tuple[int, ...]) -> bool:
    if stop - start < len(mark):
        return False
    same = 0
    for index in range(len(mark)):
        same += peek(data, stop - len(mark) + index) == mark[index]
    return same == len(mark)
