"""Which part of a global tensor a process holds: a block of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A block of the given `size` at `start` in a tensor of the given `shape`; one number per dimension."""

    shape: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    @staticmethod
    def whole(shape: tuple[int, ...]) -> Part:
        return Part(shape, (0,) * len(shape), shape)

    def cut(self, dim: int, start: int, stop: int) -> Part:
        """The block's own block [start, stop) along a dimension, counted from the block's beginning."""
        starts, sizes = list(self.start), list(self.size)
        starts[dim] += start
        sizes[dim] = stop - start
        return Part(self.shape, tuple(starts), tuple(sizes))

    @property
    def is_whole(self) -> bool:
        return self.size == self.shape

    def of(self, tensor: Tensor) -> Tensor:
        """The block as a view of the whole tensor."""
        for dim, (start, size) in enumerate(zip(self.start, self.size, strict=True)):
            tensor = tensor.narrow(dim, start, size)
        return tensor

    def counters(self, begin: int, end: int, device: torch.device) -> Tensor:
        """Places in the flattened global tensor of the block's elements [begin, end), int64."""
        places = torch.arange(begin, end, device=device)
        if math.prod(self.size[1:]) == math.prod(self.shape[1:]):
            return places + self.start[0] * math.prod(self.shape[1:]) if self.shape else places
        counters, stride = torch.zeros_like(places), 1
        for length, start, size in zip(reversed(self.shape), reversed(self.start), reversed(self.size), strict=True):
            counters += (places % size + start) * stride
            places = places // size
            stride *= length
        return counters


def even_cut(length: int, pieces: int, index: int) -> tuple[int, int]:
    """Start and stop of piece `index` where a length is cut into pieces of equal size, the last ones shorter."""
    size = -(-length // pieces)
    return min(index * size, length), min((index + 1) * size, length)
