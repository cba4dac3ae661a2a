"""Compiled kernels that are kept on disk, and when they are compiled anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLED = """\
from groundup.data.jit import {kind}
import numpy as np

ADDED = {added}
TABLE = np.array([{table}])

@{kind}
def called(x):
    return x + {number}
"""
CALLER = """\
from called import ADDED, TABLE, called
from groundup.data.jit import kernel

@kernel
def caller(x):
    return called(x) + ADDED + TABLE[0]

print(caller(1), sum(caller.stats.cache_hits.values()))
"""


@pytest.mark.parametrize("kind", ["kernel", "inlined"])
def test_a_kernel_is_compiled_anew_when_what_it_is_made_of_changes_elsewhere(tmp_path: Path, kind: str) -> None:
    (tmp_path / "caller.py").write_text(CALLER)

    def run(**values: int) -> list[int]:
        (tmp_path / "called.py").write_text(CALLED.format(kind=kind, **values))
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("NUMBA_CACHE_DIR", None)
        result = subprocess.run(
            [sys.executable, "caller.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return [int(word) for word in result.stdout.split()]

    assert run(number=1, added=10, table=100) == [112, 0]
    assert run(number=1, added=10, table=100) == [112, 1]
    assert run(number=2, added=10, table=100) == [113, 0]
    assert run(number=2, added=20, table=100) == [123, 0]
    assert run(number=2, added=20, table=200) == [223, 0]
    assert run(number=2, added=20, table=200) == [223, 1]
