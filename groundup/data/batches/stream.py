"""The batch stream: which windows sample n holds is a pure function of (data, seed, n), whoever asks.

A source's tokens are cut into windows of fixed length. Each epoch of a source is a fresh seeded permutation of its
windows. Sources are mixed by a fixed pattern of slots, so that every long prefix has the exact proportions.

Shapes: B samples, L tokens of a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from groundup.data.batches.batch import Batch
from groundup.data.batches.permutation import permute
from groundup.data.tokens.shards import DocumentIndex, TokenSource

_SLOTS = 4096


class Mixture:
    """Closed form of sample -> (source, how many samples of that source came before)."""

    def __init__(self, weights: list[float]) -> None:
        share = np.asarray(weights, float) / sum(weights)
        count = np.maximum(1, np.floor(share * _SLOTS)).astype(np.int64)
        for source in np.argsort(count - share * _SLOTS)[: max(0, _SLOTS - int(count.sum()))]:
            count[source] += 1
        # The j-th of c slots of a source falls at (j + 1/2) / c of the pattern: as even as it can be.
        place = np.concatenate([(np.arange(c) + 0.5) / c for c in count])
        source = np.repeat(np.arange(len(count)), count)
        self.count = count
        self.pattern: NDArray[np.int64] = source[np.argsort(place, kind="stable")]
        self.rank = np.empty_like(self.pattern)
        for s in range(len(count)):
            mine = self.pattern == s
            self.rank[mine] = np.arange(int(mine.sum()))

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cycle, slot = np.divmod(samples, len(self.pattern))
        source = self.pattern[slot]
        return source, cycle * self.count[source] + self.rank[slot]


class TokenStream:
    """The stream over the sources of one split.

    `start_id`: the token that begins a document. `joined`: whether it also ends the one before; if not, predicting it
    is not counted. Raises ValueError where there is not one whole window (callers check first).
    """

    def __init__(self, sources: list[TokenSource], length: int, seed: int, start_id: int, joined: bool) -> None:
        self.sources, self.length, self.seed = sources, length, seed
        self.start_id, self.joined = start_id, joined
        # One more token than a window's inputs is read, for the last label; the last window may be partly empty.
        self.windows = np.array([max(0, -(-(s.tokens - 1) // length)) for s in sources], np.int64)
        if not self.windows.any():
            raise ValueError("the stream has no tokens")
        if sources[0].weight is None:
            self.ends = np.cumsum(self.windows)
            self.mixture = None
        else:
            self.mixture = Mixture([s.weight or 0.0 for s in sources])

    @property
    def samples_per_epoch(self) -> int:
        return int(self.windows.sum())

    def locate(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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

    def _keys(self, epochs: NDArray[np.int64], source: int) -> NDArray[np.uint64]:
        unique, inverse = np.unique(epochs, return_inverse=True)
        keys = [xxhash.xxh3_64_intdigest(f"{source}/{epoch}".encode(), seed=self.seed) for epoch in unique]
        return np.array(keys, np.uint64)[inverse]

    def samples(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the shuffled stream."""
        source, window = self.locate(np.arange(start, stop, dtype=np.int64))
        return self._batch(zip(source.tolist(), window.tolist(), strict=True), stop - start)

    def documents(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Of each of samples [start, stop): source, window, tokens [first, end) in the source, ids of its documents."""
        source, window = self.locate(np.arange(start, stop, dtype=np.int64))
        indexes: dict[int, DocumentIndex] = {}
        found = []
        for sample, s, w in zip(range(start, stop), source.tolist(), window.tolist(), strict=True):
            if s not in indexes:
                indexes[s] = DocumentIndex(self.sources[s])
            first = w * self.length
            end = min(first + self.length + 1, self.sources[s].tokens)
            found.append(
                {
                    "sample": sample,
                    "source": self.sources[s].name,
                    "window": w,
                    "tokens": [first, end],
                    "documents": indexes[s].between(first, end),
                }
            )
        return found

    def in_order(self, start: int, stop: int) -> Batch:
        """Windows [start, stop) in the order of the text, for evaluation."""
        ends = np.cumsum(self.windows)
        window = np.arange(start, stop)
        source = np.searchsorted(ends, window, side="right")
        window = window - (ends - self.windows)[source]
        return self._batch(zip(source.tolist(), window.tolist(), strict=True), stop - start)

    def _batch(self, places: Any, count: int) -> Batch:
        length = self.length
        tokens = np.full((count, length + 1), self.start_id, np.int64)
        weights = np.zeros((count, length), np.float32)
        for row, (source, window) in enumerate(places):
            read = self.sources[source].read(window * length, length + 1)
            tokens[row, : len(read)] = read
            weights[row, : len(read) - 1] = 1.0
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        if not self.joined:
            weights[labels == self.start_id] = 0.0
        documents = np.cumsum(inputs == self.start_id, axis=1)
        several = bool((documents != documents[:, :1]).any())
        return Batch(
            torch.from_numpy(np.ascontiguousarray(inputs)),
            torch.from_numpy(np.ascontiguousarray(labels)),
            torch.from_numpy(weights),
            torch.from_numpy(documents) if several else None,
        )
