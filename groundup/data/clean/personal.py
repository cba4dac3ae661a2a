"""Personal data in texts, counted and masked: e-mail and IP addresses, numbers of phones, cards, accounts, persons.

`groundup.data.clean.personal_rules` says what is taken for each kind. All kinds are looked for whatever kinds are
asked for, so that a place that two of them match always counts for the same one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa

from groundup.data.clean.personal_places import places
from groundup.data.clean.personal_rules import KINDS, RULES
from groundup.data.texts import buffers, from_buffers

_RULES = [RULES[kind] for kind in KINDS]


def find(texts: pa.LargeStringArray, kinds: Collection[str] = KINDS) -> pa.Table:
    """How many there are of each kind in each of `texts` (no nulls): int32 columns `personal_KIND`, a row per text.

    Raises ValueError for a kind that is not in `KINDS`.
    """
    return _counts(_wanted(kinds), len(texts), list(_spans(texts)))


def mask(texts: pa.LargeStringArray, kinds: Collection[str] = KINDS) -> tuple[pa.LargeStringArray, pa.Table]:
    """`texts` with a placeholder such as [EMAIL] in place of each of `kinds`, and what `find` gives for `texts`."""
    wanted = _wanted(kinds)
    chosen = [span for span in _spans(texts) if KINDS[span[3]] in wanted]
    counts = _counts(wanted, len(texts), chosen)
    if not chosen:
        return texts, counts
    offsets, data = buffers(texts)
    content = data.data
    pieces: list[bytes | memoryview] = []
    done = int(offsets[0])
    for _, start, end, kind in chosen:
        pieces += [content[done:start], _RULES[kind].placeholder]
        done = end
    pieces.append(content[done : int(offsets[-1])])
    growth = np.zeros(len(texts), np.int64)
    rows, starts, ends, numbers = np.array(chosen, np.int64).T
    np.add.at(growth, rows, np.array([len(rule.placeholder) for rule in _RULES])[numbers] - (ends - starts))
    moved = np.concatenate([[0], np.cumsum(growth)])
    return from_buffers(offsets - offsets[0] + moved, b"".join(pieces)), counts


def _wanted(kinds: Collection[str]) -> list[str]:
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"no such kind of personal data: {', '.join(sorted(unknown))}")
    return [kind for kind in KINDS if kind in kinds]


def _counts(wanted: list[str], rows: int, spans: list[tuple[int, int, int, int]]) -> pa.Table:
    counts = np.zeros((len(KINDS), rows), np.int32)
    if spans:
        found = np.array(spans, np.int64)
        np.add.at(counts, (found[:, 3], found[:, 0]), 1)
    return pa.table({f"personal_{kind}": counts[KINDS.index(kind)] for kind in wanted})


def _spans(texts: pa.LargeStringArray) -> Iterator[tuple[int, int, int, int]]:
    """(row, first byte, byte after the last, kind), in order, not overlapping; bytes from the start of the data."""
    offsets, data = buffers(texts)
    content = data.data
    found = places(offsets, data)
    # Of a text ordered by kind, so that the kinds that come first claim their places first.
    found = found[np.lexsort((found[:, 1], found[:, 2], found[:, 0]))]
    claimed: list[tuple[int, int, int]] = []
    current, begin, text = -1, 0, content[:0]
    for row, start, kind in found.tolist():
        if row != current:
            yield from ((current, *claim) for claim in claimed)
            current, claimed, begin = row, [], int(offsets[row])
            text = content[begin : int(offsets[row + 1])]
        match = _RULES[kind].pattern.match(text, start - begin)
        end = begin + _RULES[kind].end(match) if match is not None else begin
        if end == begin:
            continue
        place = bisect_left(claimed, (start, end, kind))
        free_before = place == 0 or claimed[place - 1][1] <= start
        if free_before and (place == len(claimed) or claimed[place][0] >= end):
            claimed.insert(place, (start, end, kind))
    yield from ((current, *claim) for claim in claimed)
