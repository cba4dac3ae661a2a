"""The batch stream: which windows sample n holds is a pure function of (data, seed, n), whoever asks.

A source's tokens are cut into windows of fixed length, or its documents are packed into them. Each epoch of a source is
a fresh seeded permutation of its windows. Sources are mixed in exact proportions (mixture.py).

Shapes: B samples, L tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from groundup.data.batches.batch import Batch
from groundup.data.batches.fill import fill
from groundup.data.batches.mixture import Mixture
from groundup.data.batches.permutation import permute
from groundup.data.tokens.index import DocumentIndex
from groundup.data.tokens.pack import PackedWindows
from groundup.data.tokens.shards import TokenSource

Integers = NDArray[np.int64]


class TokenStream:
    """The stream over the sources of one split.

    `start_id`: the token that begins a document. `joined`: whether it also ends the one before; if not, predicting it
    is not counted. `packed`: the packed windows of each source; without it a source is cut every `length` tokens.

    Where sources have weights, samples have these shares, and an epoch is as many samples as there are windows. Where
    one has `epochs`, an epoch of the stream passes each source so many times (default once), evenly spread. Otherwise
    an epoch is every window once. Raises ValueError where there is not one whole window (callers check first).
    """

    def __init__(
        self,
        sources: list[TokenSource],
        length: int,
        seed: int,
        start_id: int,
        joined: bool,
        packed: list[PackedWindows] | None = None,
    ) -> None:
        # One more token than a window's inputs is read, for the last label; the last window may be partly empty.
        cut = [max(0, -(-(s.tokens - 1) // length)) for s in sources]
        windows = np.array(cut if packed is None else [len(p) for p in packed], np.int64)
        if not windows.any():
            raise ValueError("the stream has no tokens")
        used = np.flatnonzero(windows).tolist()
        self.sources = sources = [sources[s] for s in used]
        self.packed = None if packed is None else [packed[s] for s in used]
        self.windows: Integers = windows[used]
        self.length, self.seed, self.start_id, self.joined = length, seed, start_id, joined
        self.ends = np.cumsum(self.windows)
        self.samples_per_epoch = int(self.windows.sum())
        self.mixture: Mixture | None = None
        if sources[0].weight is not None:
            self.mixture = Mixture.of_weights([s.weight or 0.0 for s in sources])
        elif any(s.epochs is not None for s in sources):
            passes = np.array([1.0 if s.epochs is None else s.epochs for s in sources])
            self.mixture = Mixture(np.maximum(1, np.rint(passes * self.windows)).astype(np.int64))
            self.samples_per_epoch = self.mixture.cycle

    def locate(self, samples: Integers) -> tuple[Integers, Integers]:
        """Source and window of each sample."""
        if self.mixture is None:
            # Without weights all windows are one pool, so that an epoch is every window exactly once.
            epoch, place = np.divmod(samples, self.samples_per_epoch)
            window = permute(place, self.samples_per_epoch, self._keys(epoch, -1))
            source = np.searchsorted(self.ends, window, side="right")
            return source, window - (self.ends - self.windows)[source]
        source, index = self.mixture.locate(samples)
        window = np.empty_like(index)
        for s in np.unique(source):
            mine = source == s
            epoch, place = np.divmod(index[mine], self.windows[s])
            window[mine] = permute(place, int(self.windows[s]), self._keys(epoch, int(s)))
        return source, window

    def _keys(self, epochs: Integers, source: int) -> NDArray[np.uint64]:
        unique, inverse = np.unique(epochs, return_inverse=True)
        keys = [xxhash.xxh3_64_intdigest(f"{source}/{epoch}".encode(), seed=self.seed) for epoch in unique]
        return np.array(keys, np.uint64)[inverse]

    def samples(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the shuffled stream."""
        return self._batch(*self.locate(np.arange(start, stop, dtype=np.int64)))

    def documents(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Of each of samples [start, stop): source, window, tokens [first, end) in the source of each of its pieces (of
        all of it, where nothing is packed), ids of its documents."""
        return [
            {
                "sample": sample,
                "source": index.source.name,
                "window": window,
                "tokens": spans[0] if self.packed is None else spans,
                "documents": [name for begin, end in spans for name in index.between(begin, end)],
            }
            for sample, index, window, spans in self._spans(start, stop)
        ]

    def origins(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Each document of each of samples [start, stop): sample, id, source, file, offset in the file."""
        return [
            {
                "sample": sample,
                "id": row["id"],
                "source": index.source.name,
                "file": row["file"],
                "offset": row["offset"],
            }
            for sample, index, _, spans in self._spans(start, stop)
            for begin, end in spans
            for row in index.rows(begin, end)
        ]

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, DocumentIndex, int, list[list[int]]]]:
        """Of each sample: the index of its source, its window, and the tokens [first, end) of its pieces."""
        source, window = self.locate(np.arange(start, stop, dtype=np.int64))
        indexes: dict[int, DocumentIndex] = {}
        for sample, s, w in zip(range(start, stop), source.tolist(), window.tolist(), strict=True):
            index = indexes.setdefault(s, DocumentIndex(self.sources[s]))
            _, first, length = self._pieces(np.array([s]), np.array([w]))
            # A label at a window's end may be of the next document; at a piece's end it closes its own.
            last = 1 if self.packed is None else 0
            spans = [
                [begin, min(begin + count + last, self.sources[s].tokens)]
                for begin, count in zip(first.tolist(), length.tolist(), strict=True)
            ]
            yield sample, index, w, spans

    def in_order(self, start: int, stop: int) -> Batch:
        """Windows [start, stop) in the order of the text, for evaluation."""
        window = np.arange(start, stop, dtype=np.int64)
        source = np.searchsorted(self.ends, window, side="right")
        return self._batch(source, window - (self.ends - self.windows)[source])

    def _pieces(self, source: Integers, window: Integers) -> tuple[Integers, Integers, Integers]:
        """The pieces of these windows, in order: row of the batch, first token in its source, inputs."""
        if self.packed is None:
            rows = np.arange(len(source))
            return rows, window * self.length, np.full(len(rows), self.length)
        places = [self.packed[s].offsets[w : w + 2] for s, w in zip(source.tolist(), window.tolist(), strict=True)]
        pieces = [self.packed[s].pieces[a:b] for s, (a, b) in zip(source.tolist(), places, strict=True)]
        whole = np.concatenate(pieces)
        return np.repeat(np.arange(len(source)), [len(p) for p in pieces]), whole[:, 0], whole[:, 1]

    def _batch(self, source: Integers, window: Integers) -> Batch:
        shape = len(source), self.length
        row, first, length = self._pieces(source, window)
        begin = np.cumsum(length + 1) - length - 1
        raw = np.empty(int(begin[-1] + length[-1] + 1), np.result_type(*(s.dtype for s in self.sources)))
        found = np.empty(len(row), np.int64)
        sources = [self.sources[s] for s in source[row].tolist()]
        for p, (of, at, count, token) in enumerate(
            zip(sources, begin.tolist(), length.tolist(), first.tolist(), strict=True)
        ):
            found[p] = have = of.read_into(raw[at : at + count + 1], token)
            if have <= count:
                raw[at + have : at + count + 1] = self.start_id
        column = np.cumsum(length) - length
        column -= column[np.searchsorted(row, row)]
        tokens, labels, documents = np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, np.int64)
        weights = np.empty(shape, np.float32)
        several = fill(
            raw,
            found,
            row,
            column,
            length,
            self.start_id,
            self.joined,
            self.packed is not None,
            tokens,
            labels,
            weights,
            documents,
        )
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(labels),
            torch.from_numpy(weights),
            torch.from_numpy(documents) if several else None,
        )
