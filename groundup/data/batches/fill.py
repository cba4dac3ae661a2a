"""The innermost part of the batch stream: from token ids as they lie in files to the arrays of a batch.

Shapes: B samples, L tokens of a sample, P pieces of samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Filled(NamedTuple):
    """tokens, labels: int64 [B, L]; weights: fp32 [B, L]; documents: int64 [B, L], None where each row has only one."""

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    documents: NDArray[np.int64] | None


def fill_windows(raw: NDArray[Any], found: NDArray[np.int64], start_id: int, joined: bool) -> Filled:
    """Rows that are cut out of a run of tokens.

    raw: [B, L + 1], of whose rows `found` [B] tokens are there and the others are `start_id`. Documents begin at start
    tokens; one counts as a label only where it ends the document before (`joined`).
    """
    starts = raw == start_id
    documents = np.cumsum(starts[:, :-1], 1, np.int64) if starts[:, 1:-1].any() else None
    labels = raw[:, 1:].astype(np.int64)
    weights = (np.ones_like(starts[:, 1:]) if joined else ~starts[:, 1:]).astype(np.float32)
    for row in np.flatnonzero(found <= labels.shape[1]):
        weights[row, max(0, found[row] - 1) :] = 0.0
    return Filled(raw[:, :-1].astype(np.int64), labels, weights, documents)


def fill_pieces(
    raw: NDArray[Any],
    found: NDArray[np.int64],
    begin: NDArray[np.int64],
    row: NDArray[np.int64],
    length: NDArray[np.int64],
    width: int,
) -> Filled:
    """Rows of `width` tokens that are filled by pieces, each a document.

    raw: of each piece its length + 1 tokens, from `begin` on, of which `found` are there: so many labels count, but for
    the first token. The pieces, int64 [P], are in the order of their rows.
    """
    taken = np.ones(len(raw), bool)
    taken[begin + length] = False
    tokens = raw[taken].reshape(-1, width).astype(np.int64)
    taken[begin + length], taken[begin] = True, False
    labels = raw[taken].reshape(-1, width).astype(np.int64)
    weights = np.ones(tokens.shape, np.float32)
    ends, counted = np.cumsum(length), np.maximum(found - 1, 0)
    for p in np.flatnonzero(counted < length):
        weights.reshape(-1)[ends[p] - length[p] + counted[p] : ends[p]] = 0.0
    if len(row) == len(tokens):
        return Filled(tokens, labels, weights, None)
    number = np.arange(len(row)) - np.searchsorted(row, row) + 1
    return Filled(tokens, labels, weights, np.repeat(number, length).reshape(-1, width))
