"""One portion of text for a model. Everything that depends on neighbours is made before any slicing.

Shapes: B samples, L tokens of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """tokens, labels: int64 [B, L]; weights: fp32 [B, L], 0 where a label does not count; documents: int64 [B, L] ids
    within a row, or None where each row is of one document."""

    tokens_BL: Tensor
    labels_BL: Tensor
    weights_BL: Tensor
    documents_BL: Tensor | None

    def __len__(self) -> int:
        return self.tokens_BL.shape[0]

    def rows(self, start: int, stop: int) -> Batch:
        documents = self.documents_BL
        return Batch(
            self.tokens_BL[start:stop],
            self.labels_BL[start:stop],
            self.weights_BL[start:stop],
            None if documents is None else documents[start:stop],
        )

    def padded(self, rows: int) -> Batch:
        """At least `rows` rows: the last one again, weighing nothing."""
        missing = rows - len(self)
        if missing <= 0:
            return self

        def again(x: Tensor) -> Tensor:
            return torch.cat((x, x[-1:].expand(missing, -1)))

        weights_BL = torch.cat((self.weights_BL, self.weights_BL.new_zeros(missing, self.weights_BL.shape[1])))
        documents = None if self.documents_BL is None else again(self.documents_BL)
        return Batch(again(self.tokens_BL), again(self.labels_BL), weights_BL, documents)

    def to(self, device: torch.device) -> Batch:
        """On a GPU from pinned memory, without waiting."""

        def move(x: Tensor) -> Tensor:
            return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x

        documents = self.documents_BL
        return Batch(
            move(self.tokens_BL),
            move(self.labels_BL),
            move(self.weights_BL),
            None if documents is None else move(documents),
        )

    @property
    def counted(self) -> float:
        """Sum of the weights; read on the host, before the batch goes to a device."""
        return float(self.weights_BL.sum())
