"""What all tasks' portions of samples have in common."""

from __future__ import annotations

from typing import Protocol, Self

import torch


class Samples(Protocol):
    """A portion of samples with their labels."""

    def __len__(self) -> int: ...

    @property
    def counted(self) -> float:
        """Sum of the labels' weights; read on the host, before the samples go to a device."""

    def rows(self, start: int, stop: int) -> Self: ...

    def padded(self, rows: int) -> Self:
        """At least so many samples, those added weighing nothing."""

    def to(self, device: torch.device) -> Self: ...
