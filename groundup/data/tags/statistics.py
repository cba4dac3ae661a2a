"""The statistics of documents that quality filters are made of, from one pass over the bytes of an Arrow array.

A word is defined in `tokens`. An ideograph is a word of its own wherever it stands, so that Chinese and Japanese are
judged by characters, and no document has to be called Chinese first; Korean, written with spaces, has words.

What differs from datatrove 0.9 on English (its words are spaCy's, split from their punctuation as here): a URL, an
e-mail address and an abbreviation with points at its end are several tokens here; a run of one mark ("====", "((") is
one token here; an n-gram that occurs once is no repetition here; a paragraph ends at any blank line, one with spaces
too; only \\n ends a line; lines of C4 may end with curly closing quotes too; sentences end at end marks before white
space, without a list of abbreviations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from groundup.data.jit import kernel
from groundup.data.kernels import class_table
from groundup.data.tags import counts as at
from groundup.data.tags.columns import INTEGERS, STATISTICS
from groundup.data.tags.repetition import MOST_TOKENS, Counts, repeated, repeated_ngrams, table_size
from groundup.data.tags.scan import scan
from groundup.data.tags.tokens import ascii_word_table
from groundup.data.texts import Bytes, Offsets, buffers

# Repetition is looked for in the first tokens and lines of a document only, so that memory is bounded (about 60 MB).
MEASURED_TOKENS = MOST_TOKENS
MEASURED_LINES = 1 << 18

SCHEMA = pa.schema([(name, pa.int64() if name in INTEGERS else pa.float32()) for name, _ in STATISTICS])

# Places in the row of repetitions: repeated lines, their characters, the same of paragraphs, top 2..4, duplicate 5..10.
_TOP, _DUPLICATE, _REPETITIONS = 4, 7, 13


def statistics(texts: pa.LargeStringArray) -> pa.Table:
    """The statistics of each text, one row each in the same order, with the columns of `columns.STATISTICS` (`SCHEMA`).

    A share or ratio of nothing is 0. Shares that count overlapping n-grams more than once are cut at 1. Repetition
    is measured within the first `MEASURED_TOKENS` tokens and `MEASURED_LINES` non-blank lines of a document.
    """
    offsets, data = buffers(texts)
    counts, repetitions = count(offsets, data)
    return _table(np.diff(offsets), counts, repetitions)


def count(
    offsets: Offsets, data: Bytes, tokens: int = MEASURED_TOKENS, lines: int = MEASURED_LINES
) -> tuple[Counts, Counts]:
    """(counts int64 [rows, counts.COUNTS], repetitions int64 [rows, 13]) with limits for what is measured."""
    longest = int(np.diff(offsets).max(initial=0))
    counts = np.zeros((len(offsets) - 1, at.COUNTS), np.int64)
    repetitions = np.zeros((len(offsets) - 1, _REPETITIONS), np.int64)
    _count(
        offsets, data, class_table(), ascii_word_table(), min(longest, tokens), min(longest, lines), counts, repetitions
    )
    return counts, repetitions


@kernel
def _count(
    offsets: Offsets,
    data: Bytes,
    table: Bytes,
    ascii_words: Counts,
    tokens: int,
    lines: int,
    counts: Counts,
    repetitions: Counts,
) -> None:
    hashes, keys = np.empty(tokens, np.uint64), np.empty(tokens, np.uint64)
    ends, spans = np.empty(tokens + 1, np.int32), np.empty(tokens + 1, np.int32)
    line_hashes, line_sizes = np.empty(lines, np.uint64), np.empty(lines, np.int32)
    paragraph_hashes, paragraph_sizes = np.empty(lines, np.uint64), np.empty(lines, np.int32)
    most = max(tokens, lines)
    slots, marks = np.empty(table_size(most), np.uint32), np.empty(2 * table_size(most), np.uint8)
    places, firsts = np.empty(most, np.uint32), np.empty(most, np.uint32)
    occurrences, seen = np.empty(most, np.uint32), np.empty(most, np.uint8)
    for row in range(len(offsets) - 1):
        of, again = counts[row], repetitions[row]
        scan(
            data.ctypes.data, offsets[row], offsets[row + 1], len(data), table.ctypes.data, ascii_words.ctypes.data,
            of, hashes, ends, spans, line_hashes, line_sizes, paragraph_hashes, paragraph_sizes,
        )  # fmt: skip
        again[0], again[1] = repeated(line_hashes, line_sizes, of[at.STORED_LINES], slots)
        again[2], again[3] = repeated(paragraph_hashes, paragraph_sizes, of[at.STORED_PARAGRAPHS], slots)
        repeated_ngrams(
            hashes, ends, spans, of[at.STORED_TOKENS], slots, keys, places, firsts, occurrences, seen, marks,
            again[_TOP:_DUPLICATE], again[_DUPLICATE:],
        )  # fmt: skip


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole != 0)


def _table(sizes: npt.NDArray[np.int64], counts: Counts, repetitions: Counts) -> pa.Table:
    of, again = counts.T, repetitions.T
    tokens, visible_lines, measured = of[at.TOKENS], of[at.LINES], of[at.MEASURED]
    # The last line has no line break, unless it is empty, and then it is none.
    lines = of[at.NEWLINES] + of[at.UNFINISHED]
    stop_words = np.bitwise_count(of[at.STOP_WORDS])
    columns = {
        "bytes": sizes,
        "characters": of[at.CHARACTERS],
        "words": of[at.WORDS],
        "lines": lines,
        "paragraphs": of[at.PARAGRAPHS],
        "mean_word_length": _share(of[at.WORD_CHARACTERS], of[at.WORDS]),
        "alphabetic_word_fraction": _share(of[at.ALPHABETIC], tokens),
        "hash_word_ratio": _share(of[at.NUMBER_SIGNS], tokens),
        "ellipsis_word_ratio": _share(of[at.ELLIPSES], tokens),
        "bullet_line_fraction": _share(of[at.BULLET_LINES], lines),
        "ellipsis_line_fraction": _share(of[at.ELLIPSIS_LINES], lines),
        "stop_words": stop_words,
        "duplicate_line_fraction": _share(again[0], of[at.STORED_LINES]),
        "duplicate_line_char_fraction": _share(again[1], measured),
        "duplicate_line_text_fraction": _share(again[1], measured - of[at.MEASURED_NEWLINES]),
        "duplicate_paragraph_fraction": _share(again[2], of[at.STORED_PARAGRAPHS]),
        "duplicate_paragraph_char_fraction": _share(again[3], measured),
        **{f"top_{n}_gram_char_fraction": np.minimum(_share(again[_TOP + n - 2], measured), 1) for n in range(2, 5)},
        **{f"duplicate_{n}_gram_char_fraction": _share(again[_DUPLICATE + n - 5], measured) for n in range(5, 11)},
        "terminal_line_fraction": _share(of[at.TERMINAL_LINES], visible_lines),
        "short_line_fraction": _share(of[at.SHORT_LINES], visible_lines),
        "newline_word_ratio": _share(of[at.NEWLINES], tokens),
        "sentence_line_fraction": _share(of[at.C4_LINES], visible_lines),
        "sentences": of[at.C4_SENTENCES],
        "curly_bracket_lines": of[at.CURLY_LINES],
        "lorem_ipsum_lines": of[at.LOREM_LINES],
        "javascript_lines": of[at.JAVASCRIPT_LINES],
        "policy_lines": of[at.POLICY_LINES],
        "upper_case_fraction": _share(of[at.CAPITALS], of[at.LETTERS]),
        "digit_fraction": _share(of[at.DIGITS], of[at.VISIBLE]),
        "cjk_fraction": _share(of[at.CJK_LETTERS], of[at.LETTERS]),
    }
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)
