"""Which lines C4 keeps by how they end (Raffel et al. 2020; tensorflow_datasets, c4_utils)."""

from __future__ import annotations

from numba import njit

from groundup.data.kernels import last_character, peek

# Characters that may stand between the end mark of a sentence and the white space behind it.
SENTENCE_CLOSERS = tuple(ord(c) for c in "\"')]}\u2019\u201d\u300d\u300f\uff09\u3011\u300b\u3009")
_END_MARKS = tuple(ord(c) for c in "\"'\u2019\u201d\u300d\u300f")
_FULLWIDTH = tuple(ord(c) for c in "\u3002\uff01\uff1f\uff0e\uff61")
_EDIT = tuple(b"[edit]")
_CITATION_NEEDED = tuple(b"[citation needed]")


@njit(cache=True, nogil=True)
def keeps_line(data: int, start: int, stop: int) -> bool:
    """Whether the line from byte `start` to `stop` of the text at address `data`, without the white space at its end,
    ends like a sentence.

    Marks of citations, [12], [], [edit], [citation needed], are left out at the end. It must end with . ? ! " or '
    (C4's marks) or, added here, with a curly or corner closing quote or a full-width . ? !, and not with three points.
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _ends_with(data: int, start: int, stop: int, mark: tuple[int, ...]) -> bool:
    if stop - start < len(mark):
        return False
    same = 0
    for index in range(len(mark)):
        same += peek(data, stop - len(mark) + index) == mark[index]
    return same == len(mark)
