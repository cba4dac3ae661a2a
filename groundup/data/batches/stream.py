"""The batch stream: which windows sample n holds is a pure function of (data, seed, n), whoever asks.

A source's tokens are cut into windows of fixed length, or its documents are packed into them. Each epoch of a source is
a fresh seeded permutation of its windows. Sources are mixed in exact proportions (mixture.py).

Shapes: B samples, L tokens of a sample.
"""

from __future__ import annotations

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from groundup.data.batches.batch import Batch
from groundup.data.batches.fill import fill_pieces, fill_windows
from groundup.data.batches.mixture import Mixture
from groundup.data.batches.permutation import permute
from groundup.data.tokens.packed import PackedWindows
from groundup.data.tokens.shards import TokenSource

Integers = NDArray[np.int64]
_CHUNK = 1 << 10  # samples that are located at once


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
        self._chunk_start = -1
        self._chunk = np.empty(0, np.int64), np.empty(0, np.int64)

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

    def windows_of(self, start: int, stop: int) -> tuple[Integers, Integers]:
        """Source and window of each of samples [start, stop) of the shuffled stream."""
        first = start - start % _CHUNK
        if self._chunk_start != first or stop > first + len(self._chunk[0]):
            # Small batches share one computation of a chunk; what is kept never changes an answer.
            size = -(-(stop - first) // _CHUNK) * _CHUNK
            self._chunk = self.locate(np.arange(first, first + size, dtype=np.int64))
            self._chunk_start = first
        source, window = self._chunk
        return source[start - first : stop - first], window[start - first : stop - first]

    def samples(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the shuffled stream."""
        return self._batch(*self.windows_of(start, stop))

    def in_order(self, start: int, stop: int) -> Batch:
        """Windows [start, stop) in the order of the text, for evaluation."""
        window = np.arange(start, stop, dtype=np.int64)
        source = np.searchsorted(self.ends, window, side="right")
        return self._batch(source, window - (self.ends - self.windows)[source])

    def pieces(self, source: Integers, window: Integers) -> tuple[Integers, Integers, Integers]:
        """The pieces of these windows, in order: row of the batch, first token in its source, inputs."""
        if self.packed is None:
            rows = np.arange(len(source))
            return rows, window * self.length, np.full(len(rows), self.length)
        places = [self.packed[s].offsets[w : w + 2] for s, w in zip(source.tolist(), window.tolist(), strict=True)]
        pieces = [self.packed[s].pieces[a:b] for s, (a, b) in zip(source.tolist(), places, strict=True)]
        whole = np.concatenate(pieces)
        return np.repeat(np.arange(len(source)), [len(p) for p in pieces]), whole[:, 0], whole[:, 1]

    def _with_rests(
        self, source: Integers, row: Integers, first: Integers, length: Integers
    ) -> tuple[Integers, Integers, Integers]:
        """The pieces, and where they leave room in their row one more, behind its source's last token."""
        room = self.length - np.bincount(row, length, len(source)).astype(np.int64)
        short = np.flatnonzero(room)
        place = np.searchsorted(row, short, "right")
        behind = [self.sources[s].tokens for s in source[short].tolist()]
        return np.insert(row, place, short), np.insert(first, place, behind), np.insert(length, place, room[short])

    def _batch(self, source: Integers, window: Integers) -> Batch:
        row, first, length = self.pieces(source, window)
        if self.packed is not None:
            row, first, length = self._with_rests(source, row, first, length)
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
        if self.packed is None:
            filled = fill_windows(raw.reshape(len(source), -1), found, self.start_id, self.joined)
        else:
            filled = fill_pieces(raw, found, begin, row, length, self.length)
        tokens, labels, weights = (torch.from_numpy(array) for array in filled[:3])
        documents = None if filled.documents is None else torch.from_numpy(filled.documents)
        return Batch(tokens, labels, weights, documents)
