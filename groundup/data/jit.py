"""numba's compiler as decorators that keep a function's type."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

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

import numpy as np  # noqa: E402
from numba import njit, types  # noqa: E402
from numba.core.dispatcher import Dispatcher  # noqa: E402
from numba.core.extending import _Intrinsic  # noqa: E402
from numba.extending import intrinsic  # noqa: E402

__all__ = ["inlined", "intrinsic", "kernel", "types"]  # numba's own from here, so that it is loaded here


@cache
def _source(path: str) -> str:
    return sha256(Path(path).read_bytes()).hexdigest()


def _kept(dispatcher: Any) -> Any:
    """numba's index of what it has on disk of a kernel, which holds as long as its stamp is the same."""
    return dispatcher._cache._cache_file


def _made_of(function: Callable[..., object]) -> Iterator[object]:
    """What else than its own file a kernel's machine code is made of: the kernels it calls, the constants it reads, and
    the modules of this package it reads them from."""
    package = function.__module__.partition(".")[0]
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            yield _kept(value)._source_stamp
        elif isinstance(value, np.ndarray | np.generic):
            yield value.dtype.str, sha256(value.tobytes()).hexdigest()
        elif isinstance(value, int | float | str | bytes | tuple):
            yield value
        elif isinstance(value, _Intrinsic):
            yield _source(value._defn.__code__.co_filename)
        elif isinstance(value, ModuleType) and value.__name__.partition(".")[0] == package:
            assert value.__file__ is not None
            yield _source(value.__file__)


def _compiled(function: Function, **options: Any) -> Function:
    dispatcher = njit(cache=True, nogil=True, **options)(function)
    if isinstance(dispatcher, Dispatcher):  # a plain function where NUMBA_DISABLE_JIT is set
        # numba's own stamp is that of the kernel's file.
        kept = _kept(dispatcher)
        parts = repr((kept._source_stamp, *_made_of(function)))
        kept._source_stamp = sha256(parts.encode()).hexdigest()
    return cast(Function, dispatcher)


def kernel(function: Function) -> Function:
    """`function` compiled at its first call, without the interpreter's lock, kept on disk for the next process."""
    return _compiled(function)


def inlined(function: Function) -> Function:
    """The same, put into each kernel that calls it. Not for one with arrays, whose references numba would count."""
    return _compiled(function, inline="always")
