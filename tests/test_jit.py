"""Compiled kernels that are kept on disk, and when they are compiled anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONSTANTS = """\
import numpy as np

INTEGER = {integer}
SCALAR = np.uint64({scalar})
TABLE = np.array([{table}])
"""
OTHERS = "ATTRIBUTE = {attribute}\n"
OWN = """\
from llvmlite import ir
from groundup.data.jit import inlined, intrinsic, kernel, types

@{kind}
def called(x):
    return x + {called}

@intrinsic
def written(context, x):
    def generate(context, builder, signature, args):
        return builder.add(args[0], ir.Constant(ir.IntType(64), {written}))
    return types.int64(types.int64), generate
"""
CALLER = """\
from made import others
from made.constants import INTEGER, SCALAR, TABLE
from made.own import called, written
from groundup.data.jit import kernel

@kernel
def caller(x):
    return called(written(x)) + INTEGER + int(SCALAR) + TABLE[0] + others.ATTRIBUTE

print(caller(0), sum(caller.stats.cache_hits.values()))
"""


@pytest.mark.parametrize("kind", ["kernel", "inlined"])
def test_a_kernel_is_compiled_anew_when_what_it_is_made_of_changes_elsewhere(tmp_path: Path, kind: str) -> None:
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "caller.py").write_text(CALLER)
    values = {"called": 1, "written": 1, "integer": 1, "scalar": 1, "table": 1, "attribute": 1}

    def run() -> list[int]:
        for name, text in (("constants", CONSTANTS), ("others", OTHERS), ("own", OWN)):
            (package / f"{name}.py").write_text(text.format(kind=kind, **values))
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("NUMBA_CACHE_DIR", None)
        result = subprocess.run(
            [sys.executable, "-c", "import made.caller"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return [int(word) for word in result.stdout.split()]

    assert run() == [6, 0]
    assert run() == [6, 1]
    for count, name in enumerate(values, 1):
        values[name] = 2
        assert run() == [6 + count, 0], name
    assert run() == [12, 1]
