"""numba's compiler as a decorator with a type, and the mixing function that every kernel here uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """`function` compiled at its first call, without the interpreter's lock, kept on disk for the next process."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


@kernel
def mix(value: np.uint64) -> np.uint64:
    """A bijection of 64-bit numbers in which every bit depends on all of the input's (splitmix64's finaliser)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
