"""The innermost loop of the batch stream: from token ids as they lie in files to the arrays of a batch.

Shapes: B samples, L tokens of a sample, P pieces of samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fill(
    raw: NDArray[Any],
    found: NDArray[np.int64],
    row: NDArray[np.int64],
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    start_id: int,
    joined: bool,
    packed: bool,
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float32],
    documents: NDArray[np.int64],
) -> bool:
    """Fill tokens, labels, weights, documents [B, L]; whether a row has several documents.

    `raw`: of each piece length + 1 tokens, one piece after the other, of which `found` are there and the others are
    `start_id`. Piece p fills columns [first[p], first[p] + length[p]) of row[p]; pieces are in order of rows and
    columns. A row's rest is of start tokens, without weight. `packed`: each piece is a document, its labels all count.
    Otherwise documents begin at start tokens, and a start token counts as a label only where it ends the document
    before (`joined`).
    """
    several = False
    base = 0
    number = 0
    width = tokens.shape[1]
    for p in range(len(row)):
        r, o, n = row[p], first[p], length[p]
        number = number + 1 if o else 1
        source = raw[base : base + n + 1]
        tokens_L, labels_L = tokens[r, o : o + n], labels[r, o : o + n]
        weights_L, documents_L = weights[r, o : o + n], documents[r, o : o + n]
        for t in range(n):
            tokens_L[t] = source[t]
        for t in range(n):
            labels_L[t] = source[t + 1]
        counted = min(n, max(0, found[p] - 1))
        weights_L[:counted] = 1.0
        weights_L[counted:] = 0.0
        if packed:
            documents_L[:] = number
            several = several or o > 0
        else:
            document = 0
            for t in range(n):
                document += source[t] == start_id
                documents_L[t] = document
            several = several or document != documents_L[0]
            if not joined:
                for t in range(n):
                    if source[t + 1] == start_id:
                        weights_L[t] = 0.0
        if p + 1 == len(row) or row[p + 1] != r:
            for t in range(o + n, width):
                tokens[r, t] = start_id
                labels[r, t] = start_id
                weights[r, t] = 0.0
                documents[r, t] = number + 1
            several = several or o + n < width
        base += n + 1
    return several
