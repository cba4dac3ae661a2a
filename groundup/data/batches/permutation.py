"""A seeded permutation of 0 .. n-1 in closed form: any place is computed alone, nothing is stored.

A four-round Feistel network over the next even power of two, walked until the value falls below n
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.uint64]
_ROUNDS = 4


def _mix(z: Integers) -> Integers:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permute(places: NDArray[Any], n: int, key: NDArray[Any] | int) -> NDArray[np.int64]:
    """Where each place of 0 .. n-1 goes under `key` (64 bits; one, or one per place)."""
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = np.broadcast_to(np.asarray(key, np.uint64), places.shape)

    def once(x: Integers, k: Integers) -> Integers:
        left, right = x >> half, x & low
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(right + k + np.uint64((turn * 0x9E3779B97F4A7C15) % 2**64)) & low)
        return (left << half) | right

    with np.errstate(over="ignore"):
        x = once(places.astype(np.uint64), keys)
        outside = x >= n
        while outside.any():
            x[outside] = once(x[outside], keys[outside])
            outside = x >= n
    return x.astype(np.int64)
