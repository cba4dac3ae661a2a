"""numba's compiler as decorators that keep a function's type."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])


def _load_numba() -> None:
    """Load what numba would with the first kernel, without SciPy, which takes it a quarter of a second in each process.

    It asks then for SciPy's linear algebra, so as to know how np.convolve and np.correlate are to multiply: without, by
    a loop of their own. Products of matrices ask again.
    """
    hidden = [name for name in ("scipy", "scipy.linalg") if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


_load_numba()

from numba import njit, types  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

__all__ = ["inlined", "intrinsic", "kernel", "types"]  # numba's own from here, so that it is loaded here


def kernel(function: Function) -> Function:
    """`function` compiled at its first call, without the interpreter's lock, kept on disk for the next process."""
    return cast(Function, njit(cache=True, nogil=True)(function))


def inlined(function: Function) -> Function:
    """The same, put into each kernel that calls it. Not for one with arrays, whose references numba would count."""
    return cast(Function, njit(cache=True, nogil=True, inline="always")(function))
