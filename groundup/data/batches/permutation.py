"""A seeded permutation of 0 .. n-1 in closed form: any place is computed alone, nothing is stored.

A four-round Feistel network over the next even power of two, walked until the value falls below n
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integers = NDArray[np.uint64]
_ROUNDS = 4


def mix(z: Integers) -> Integers:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _permute(places: Integers, n: np.uint64, half: np.uint64, keys: Integers, out: NDArray[np.int64]) -> None:
    low = (np.uint64(1) << half) - np.uint64(1)
    step = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(places)):
        x = places[i]
        while True:
            left, right, key = x >> half, x & low, keys[i]
            for _ in range(_ROUNDS):
                z = right + key
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                left, right = right, left ^ ((z ^ (z >> np.uint64(31))) & low)
                key += step
            x = (left << half) | right
            if x < n:
                break
        out[i] = x


def permute(places: NDArray[Any], n: int, key: NDArray[Any] | int) -> NDArray[np.int64]:
    """Where each place of 0 .. n-1 goes under `key` (64 bits; one, or one per place)."""
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    keys = np.full(places.shape, key, np.uint64) if isinstance(key, int) else np.asarray(key, np.uint64)
    out = np.empty(places.shape, np.int64)
    _permute(places.astype(np.uint64), np.uint64(n), half, keys, out)
    return out
