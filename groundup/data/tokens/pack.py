"""Windows packed so that few documents are cut: best-fit packing.

Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv 2404.10830): a document longer than a window is
cut into whole windows and a rest; all pieces are placed, the longest first, into the window with the least room that
still holds them. With the open windows counted by the room they have, a piece costs O(log length).

Documents are packed in blocks of a few million pieces, so that memory is bounded; a block is so large that its last
windows don't matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from groundup.data.jit import kernel

BLOCK_PIECES = 1 << 22
Integers = NDArray[np.int64]


@kernel
def _best_fit(lengths: Integers, order: Integers, window: int) -> tuple[NDArray[np.int32], int]:
    """The window of each piece, and how many windows there are. `order`: the longest piece first."""
    leaves = 1
    while leaves < window + 1:
        leaves *= 2
    # tree[leaves + r]: whether a window with room r is open; above, whether any below is.
    tree = np.zeros(2 * leaves, np.uint8)
    head = np.full(window + 1, -1, np.int32)  # the open windows with each room, as lists
    following = np.empty(len(lengths), np.int32)
    place = np.empty(len(lengths), np.int32)
    windows = 0
    for piece in order:
        length = lengths[piece]
        # The least room >= length: up to the first right-hand side with an open window, then down to its left.
        node = leaves + length
        if not tree[node]:
            while node > 1 and (node & 1 or not tree[node + 1]):
                node >>= 1
            node = node + 1 if node > 1 else 0
            while 0 < node < leaves:
                node = 2 * node if tree[2 * node] else 2 * node + 1
        if node == 0:
            chosen, room = windows, window
            windows += 1
        else:
            room = node - leaves
            chosen = head[room]
            head[room] = following[chosen]
            if head[room] < 0:
                while node >= 1 and (node >= leaves or not (tree[2 * node] or tree[2 * node + 1])):
                    tree[node] = 0
                    node >>= 1
        place[piece] = chosen
        room -= length
        if room > 0:
            following[chosen] = head[room]
            head[room] = chosen
            node = leaves + room
            while node >= 1 and not tree[node]:
                tree[node] = 1
                node >>= 1
    return place, windows


def best_fit(lengths: Integers, window: int) -> tuple[Integers, Integers]:
    """(order, offsets): window w holds pieces order[offsets[w]:offsets[w + 1]], in their own order.

    `lengths`: int64 [pieces], each from 1 to `window`.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    place, windows = _best_fit(lengths, longest_first, window)
    offsets = np.zeros(windows + 1, np.int64)
    np.cumsum(np.bincount(place, minlength=windows), out=offsets[1:])
    return np.argsort(place, kind="stable"), offsets


def cut(starts: Integers, lengths: Integers, window: int) -> Integers:
    """Documents cut into pieces (start, length) of at most `window`: int64 [pieces, 2]."""
    counts = -(-lengths // window)
    number = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces = np.empty((len(number), 2), np.int64)
    pieces[:, 0] = np.repeat(starts, counts) + number * window
    pieces[:, 1] = np.minimum(window, np.repeat(lengths, counts) - number * window)
    return pieces


def pack(
    documents: Iterable[Integers], window: int, joined: bool, block: int = BLOCK_PIECES
) -> Iterator[tuple[Integers, Integers]]:
    """(pieces [n, 2], pieces per window) of one block after the other.

    `documents`: tokens of each document of a source, in portions. `joined`: whether the token after a document ends it,
    so that its last token has a label too.
    """
    waiting: list[Integers] = []
    before = 0
    for tokens in documents:
        starts = before + np.cumsum(tokens) - tokens
        before += int(tokens.sum())
        waiting.append(cut(starts, tokens if joined else tokens - 1, window))
        if sum(map(len, waiting)) >= block:
            pieces = np.concatenate(waiting)
            for start in range(0, len(pieces) - block + 1, block):
                yield _block(pieces[start : start + block], window)
            waiting = [pieces[len(pieces) // block * block :]]
    pieces = np.concatenate([np.empty((0, 2), np.int64), *waiting])
    if len(pieces):
        yield _block(pieces, window)


def _block(pieces: Integers, window: int) -> tuple[Integers, Integers]:
    order, offsets = best_fit(np.ascontiguousarray(pieces[:, 1]), window)
    return pieces[order], np.diff(offsets)
