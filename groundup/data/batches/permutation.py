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
_STEP = 0x9E3779B97F4A7C15  # from one round's key to the next


def mix(z: Integers) -> Integers:
    """SplitMix64's finaliser."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _feistel(x: Integers, half: np.uint64, keys: Integers) -> Integers:
    """A permutation of the numbers of 2 * half bits."""
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & low
    for number in range(_ROUNDS):
        key = keys + np.uint64(number * _STEP % 2**64)
        left, right = right, left ^ (mix(right + key) & low)
    return (left << half) | right


def permute(places: NDArray[Any], n: int, key: NDArray[Any] | int) -> NDArray[np.int64]:
    """Where each place of 0 .. n-1, [P], goes under `key` (64 bits; one, or one per place).

    Some microseconds for each of a dozen steps whatever their number: ask for thousands of places at once.
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    keys = np.full(places.shape, key, np.uint64) if isinstance(key, int) else np.asarray(key, np.uint64)
    out = np.empty(places.shape, np.int64)
    x, walking = places.astype(np.uint64), np.arange(len(places))
    while len(walking):
        x = _feistel(x, half, keys)
        there = x < np.uint64(n)
        out[walking[there]] = x[there]
        x, keys, walking = x[~there], keys[~there], walking[~there]
    return out
