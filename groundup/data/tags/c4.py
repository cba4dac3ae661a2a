"""Which lines C4 keeps by how they end (Raffel et al. 2020; tensorflow_datasets, c4_utils)."""

from __future__ import annotations

import numpy as np
from numba import njit

from groundup.data.kernels import Bytes, last_character

# Characters that may stand between the end mark of a sentence and the white space behind it.
SENTENCE_CLOSERS = tuple(ord(c) for c in "\"')]}\u2019\u201d」』）】》〉")
_END_MARKS = tuple(ord(c) for c in "\"'\u2019\u201d」』")
_FULLWIDTH = tuple(ord(c) for c in "。！？．｡")
_CITATIONS = tuple(np.frombuffer(c, np.uint8) for c in (b"[edit]", b"[citation needed]"))


@njit(cache=True, nogil=True)
def keeps_line(data: Bytes, start: int, stop: int) -> bool:
    """Whether the line `data[start:stop]`, white space at its end cut off, ends like a sentence.

    Marks of citations, [12], [], [edit], [citation needed], are left out at the end. It must end with . ? ! " or '
    (C4's marks) or with one of ” ’ 」 』 。！？．｡ (added here), and not with three points.
    """
    while stop > start and data[stop - 1] == 93:
        cut = _without_citation(data, start, stop)
        if cut == stop:
            return False
        stop = cut
    code, _ = last_character(data, start, stop)
    if code == 46:
        return not (stop - start >= 3 and data[stop - 2] == 46 and data[stop - 3] == 46)
    return code == 33 or code == 63 or code in _END_MARKS or code in _FULLWIDTH


@njit(cache=True, nogil=True)
def _without_citation(data: Bytes, start: int, stop: int) -> int:
    """Where the citation that ends at `stop` begins; `stop` where there is none."""
    at = stop - 2
    while at > start and 48 <= data[at] <= 57:
        at -= 1
    if at >= start and data[at] == 91:
        return at
    for index in range(len(_CITATIONS)):
        mark = _CITATIONS[index]
        if stop - start >= len(mark) and (data[stop - len(mark) : stop] == mark).all():
            return stop - len(mark)
    return stop
