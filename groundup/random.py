"""Counter-based random numbers: element i of a named stream is a hash of (seed, name, i) and of nothing else.

So any slice of a parameter can be made alone, on any device, and every layout starts with the same values.
The hash is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import xxhash
from torch import Tensor

from groundup.part import Part

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_CHUNK = 1 << 17


def _signed(value: int) -> int:
    """The int64 with the same 64 bits: torch has no full uint64 arithmetic, but int64 wraps alike."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def stream_key(seed: int, name: str) -> int:
    """The 64-bit key of the stream `name` under `seed`."""
    return xxhash.xxh64_intdigest(name.encode(), seed=seed & ((1 << 64) - 1))


def hash_counters(key: int, counters: Tensor) -> Tensor:
    """64 random bits per counter. counters: int64, any shape; returns int64 of that shape."""
    z = counters * _signed(_GOLDEN) + _signed(key + _GOLDEN)
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    return z ^ _shift_right(z, 31)


def fill_normal_(tensor: Tensor, key: int, std: float, start: int = 0, part: Part | None = None) -> None:
    """Fill a contiguous tensor with elements [start, start + numel) of the key's normal stream, scaled by `std`; or,
    where it is a part of a larger tensor, with the elements it has there.

    Box-Muller, one normal per hash: two 32-bit halves give the radius and the angle.
    """
    for begin, end, bits in _bits(tensor, key, start, part):
        radius = ((bits & 0xFFFFFFFF).float() + 0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = _shift_right(bits, 32).float().mul_(2.0 * math.pi * 2.0**-32)
        tensor.view(-1)[begin:end] = radius.mul_(angle.cos_()).mul_(std)


def fill_uniform_(tensor: Tensor, key: int, bound: float, part: Part | None = None) -> None:
    """The same with numbers uniform in [-bound, bound)."""
    for begin, end, bits in _bits(tensor, key, 0, part):
        tensor.view(-1)[begin:end] = _shift_right(bits, 40).float().mul_(2.0**-23).sub_(1.0).mul_(bound)


def _bits(tensor: Tensor, key: int, start: int, part: Part | None) -> Iterator[tuple[int, int, Tensor]]:
    """Random bits of the elements [begin, end) of a tensor, in portions."""
    for begin in range(0, tensor.numel(), _CHUNK):
        end = min(begin + _CHUNK, tensor.numel())
        if part is None:
            counters = torch.arange(start + begin, start + end, device=tensor.device)
        else:
            counters = part.counters(begin, end, tensor.device)
        yield begin, end, hash_counters(key, counters)
