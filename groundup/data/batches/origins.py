"""Which documents the samples of a token stream are of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from groundup.data.batches.stream import TokenStream
from groundup.data.tokens.index import DocumentIndex


def documents(stream: TokenStream, start: int, stop: int) -> list[dict[str, Any]]:
    """Of each of samples [start, stop): source, window, tokens [first, end) in the source of each of its pieces (of
    all of it, where nothing is packed), ids of its documents."""
    return [
        {
            "sample": sample,
            "source": index.source.name,
            "window": window,
            "tokens": spans[0] if stream.packed is None else spans,
            "documents": [name for begin, end in spans for name in index.between(begin, end)],
        }
        for sample, index, window, spans in _spans(stream, start, stop)
    ]


def origins(stream: TokenStream, start: int, stop: int) -> list[dict[str, Any]]:
    """Each document of each of samples [start, stop): sample, id, source, file, offset in the file."""
    return [
        {
            "sample": sample,
            "id": row["id"],
            "source": index.source.name,
            "file": row["file"],
            "offset": row["offset"],
        }
        for sample, index, _, spans in _spans(stream, start, stop)
        for begin, end in spans
        for row in index.rows(begin, end)
    ]


def _spans(stream: TokenStream, start: int, stop: int) -> Iterator[tuple[int, DocumentIndex, int, list[list[int]]]]:
    """Of each sample: the index of its source, its window, and the tokens [first, end) of its pieces."""
    source, window = stream.windows_of(start, stop)
    indexes: dict[int, DocumentIndex] = {}
    for sample, s, w in zip(range(start, stop), source.tolist(), window.tolist(), strict=True):
        index = indexes.setdefault(s, DocumentIndex(stream.sources[s]))
        _, first, length = stream.pieces(np.array([s]), np.array([w]))
        # A label at a window's end may be of the next document; at a piece's end it closes its own.
        last = 1 if stream.packed is None else 0
        spans = [
            [begin, min(begin + count + last, stream.sources[s].tokens)]
            for begin, count in zip(first.tolist(), length.tolist(), strict=True)
        ]
        yield sample, index, w, spans
