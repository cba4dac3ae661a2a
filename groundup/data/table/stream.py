"""The batch stream of a table: which rows sample n holds is a pure function of (data, seed, n), whoever asks.

Shapes: B rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from groundup.data.batches.permutation import permute
from groundup.errors import UserError

_CHUNK = 1 << 14  # places that are permuted at once


@dataclass(frozen=True)
class Rows:
    """features: fp32 [B, F]; labels: int64 [B] class ids; weights: fp32 [B], 0 where a row does not count; positions:
    int64 [B], places in the stream."""

    features_BF: Tensor
    labels_B: Tensor
    weights_B: Tensor
    positions_B: Tensor

    def __len__(self) -> int:
        return self.features_BF.shape[0]

    @property
    def counted(self) -> float:
        """Sum of the weights; read on the host, before the rows go to a device."""
        return float(self.weights_B.sum())

    def rows(self, start: int, stop: int) -> Rows:
        if start == 0 and stop >= len(self):
            return self
        return Rows(
            self.features_BF[start:stop],
            self.labels_B[start:stop],
            self.weights_B[start:stop],
            self.positions_B[start:stop],
        )

    def padded(self, rows: int) -> Rows:
        """At least `rows` rows: the last one again, weighing nothing."""
        missing = rows - len(self)
        if missing <= 0:
            return self
        last = torch.full((missing,), len(self) - 1)
        index = torch.cat((torch.arange(len(self)), last))
        weights_B = torch.cat((self.weights_B, torch.zeros(missing)))
        return Rows(self.features_BF[index], self.labels_B[index], weights_B, self.positions_B[index])

    def to(self, device: torch.device) -> Rows:
        """On a GPU from pinned memory, without waiting."""

        def move(x: Tensor) -> Tensor:
            return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x

        return Rows(move(self.features_BF), move(self.labels_B), move(self.weights_B), move(self.positions_B))


class TableSplit:
    """The files of one part, mapped into memory: features float32 [rows, F], labels int64 [rows], rows int64 [rows]
    (numbers of the source rows).

    `folder`: data/train, data/validation or data/test. Raises UserError where a file is missing, damaged, or not of
    the others' length.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.features = self._open("features", np.float32, 2)
        self.labels = self._open("labels", np.int64, 1)
        self.source_rows = self._open("rows", np.int64, 1)
        if not len(self.features) == len(self.labels) == len(self.source_rows):
            raise UserError("its files differ in length", where=str(folder), advice="Run prepare again")

    def __len__(self) -> int:
        return len(self.labels)

    def _open(self, name: str, dtype: type[np.generic], dimensions: int) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"can't be read: {error}", where=str(path), advice="Run prepare again") from None
        if array.dtype != dtype or array.ndim != dimensions:
            raise UserError("is not what prepare wrote", where=str(path), advice="Run prepare again")
        # A plain view: indexing a memmap object costs more than reading a batch.
        plain: np.ndarray = np.asarray(array)
        return plain


class TableStream:
    """Endless epochs over a part, each a fresh seeded permutation. Raises ValueError where the part is empty."""

    def __init__(self, split: TableSplit, seed: int) -> None:
        if not len(split):
            raise ValueError("the stream has no rows")
        self.split, self.seed = split, seed
        self._chunk_start = -1
        self._chunk = np.empty(0, np.int64)

    @property
    def samples_per_epoch(self) -> int:
        return len(self.split)

    def locate(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows of the part that samples [start, stop) of the stream are."""
        first = start - start % _CHUNK
        if self._chunk_start != first or stop > first + len(self._chunk):
            # Small batches share one computation of a chunk; what is kept never changes an answer.
            size = max(_CHUNK, -(-(stop - first) // _CHUNK) * _CHUNK)
            epochs, places = np.divmod(np.arange(first, first + size), len(self.split))
            self._chunk = permute(places, len(self.split), self._keys(epochs))
            self._chunk_start = first
        return self._chunk[start - first : stop - first]

    def _keys(self, epochs: NDArray[np.int64]) -> NDArray[np.uint64]:
        first, last = int(epochs[0]), int(epochs[-1])
        keys = [xxhash.xxh3_64_intdigest(f"table/{e}".encode(), seed=self.seed) for e in range(first, last + 1)]
        return np.array(keys, np.uint64)[epochs - first]

    def samples(self, start: int, stop: int) -> Rows:
        """Samples [start, stop) of the shuffled stream."""
        rows = self.locate(start, stop)
        return self._rows(self.split.features[rows], self.split.labels[rows], start, stop)

    def in_order(self, start: int, stop: int) -> Rows:
        """Rows [start, stop) of the part in the order of its files, for evaluation."""
        stop = min(stop, len(self.split))
        # Copied, since torch can't hold memory that must not be written.
        return self._rows(self.split.features[start:stop].copy(), self.split.labels[start:stop].copy(), start, stop)

    def _rows(self, features_BF: np.ndarray, labels_B: np.ndarray, start: int, stop: int) -> Rows:
        return Rows(
            torch.from_numpy(features_BF),
            torch.from_numpy(labels_B),
            torch.ones(stop - start),
            torch.arange(start, stop),
        )
