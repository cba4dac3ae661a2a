"""Which documents a tokenizer is trained on: a fixed sample across the whole corpus, not its beginning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.batches.permutation import mix

# More than asked for, so that the luck of the draw rarely leaves less; training stops at the limit.
_SURPLUS = 1.1
_SHARDS_FOR_ONE = 16  # of a huge corpus, only so many times the needed shards are opened


class TrainingSample:
    """A sample of about `max_bytes` of a corpus of `total_bytes`; a document is in it or not, whoever asks.

    A corpus many times larger than the sample is drawn in two steps, shards and then documents in them, so that most
    shards need not be read.
    """

    def __init__(self, total_bytes: int, max_bytes: int, seed: int) -> None:
        share = min(1.0, _SURPLUS * max_bytes / max(1, total_bytes))
        self.shard_share = min(1.0, _SHARDS_FOR_ONE * share)
        self.row_share = share / self.shard_share
        self.seed = seed

    def _draw(self, numbers: NDArray[Any]) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            key = mix(np.atleast_1d(np.asarray(self.seed, np.uint64)))
            return mix(mix(numbers.astype(np.uint64) + np.uint64(1)) ^ key) / 2.0**64

    def has_shard(self, shard: int) -> bool:
        """Whether any document of this shard can be in the sample."""
        # Numbers of rows have their shard in the upper half; these have it negated, so that the draws differ.
        return self.shard_share >= 1.0 or bool(self._draw(~np.array([shard], np.uint64))[0] < self.shard_share)

    def rows(self, shard: int, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of rows [start, stop) of a shard are in the sample."""
        if not self.has_shard(shard):
            return np.zeros(stop - start, bool)
        if self.row_share >= 1.0:
            return np.ones(stop - start, bool)
        numbers = np.uint64(shard << 32) | np.arange(start, stop, dtype=np.uint64)
        return self._draw(numbers) < self.row_share
