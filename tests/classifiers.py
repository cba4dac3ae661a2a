"""A small classifier over a table of mixed columns, for the tests of its export, its server and its page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.data.table.preprocess import Column, Preprocessor
from groundup.deploy.classifier_export import CheckRows, write_classifier
from groundup.models.perceptron import Perceptron, build_perceptron
from groundup.recipe.table import Classifier

SPECIES = ["maple", "oak", "élm <b>"]
SHAPE = Classifier(widths=[16, 8], dropout=0.5)


def columns(*, imputes: bool = False) -> list[Column]:
    fills: list[Any] = [3.5, 0.2, 1.0, "red"] if imputes else [None] * 4
    return [
        Column("height, m", "number", mean=3.5, scale=2.0, fill=fills[0]),
        Column("width", "number", mean=0.2, scale=0.1, fill=fills[1]),
        Column("evergreen", "boolean", fill=fills[2]),
        Column("colour", "category", fill=fills[3], categories=["red", "green", "3"], other=True),
    ]


def preprocessor(*, imputes: bool = False, classes: list[Any] = SPECIES) -> Preprocessor:
    return Preprocessor(columns(imputes=imputes), "species", classes, ignored=["id"], imputes=imputes)


def perceptron(made: Preprocessor, shape: Classifier = SHAPE, seed: int = 0) -> Perceptron:
    """With random weights, biases included, in the mode of training."""
    model = build_perceptron(shape, made.width, len(made.classes), seed, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.data.mul_(4.0)  # untrained, but not of one mind about all rows
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.train()


def table(rows: int = 40, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Raw rows, an unseen category among them."""
    random = np.random.default_rng(seed)
    return {
        "height, m": random.normal(3.5, 2.0, rows),
        "width": random.normal(0.2, 0.1, rows),
        "evergreen": random.choice(np.array(["true", "false"], object), rows),
        "colour": random.choice(np.array(["red", "green", "3", "violet"], object), rows),
    }


def write(folder: Path, made: Preprocessor, model: Perceptron, **changes: Any) -> dict[str, Any]:
    """An export of the model."""
    if "rows" not in changes:
        raw = table()
        changes["rows"] = CheckRows(torch.from_numpy(made.encode(raw)), raw)
    statistics = [
        {"name": "height, m", "mean": 3.5, "std": 2.0, "min": -1.25, "max": 9.5},
        {"name": "width", "mean": 0.2, "std": 0.1, "min": 0.05, "max": 0.6},
        {"name": "evergreen", "mean": 0.9, "std": 0.3, "min": 0.0, "max": 1.0},
    ]
    arguments: dict[str, Any] = {
        "onnx": True,
        "tolerance": 1e-4,
        "card": "# Trees\n",
        "lineage": {"recipe": "trees", "parameters": 300, "data": {"columns": statistics}},
    }
    return write_classifier(model, made, folder, **arguments | changes)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server in a process of its own."""
    program = "import sys, pathlib; from groundup.deploy.server import serve; serve(pathlib.Path(sys.argv[1]), port=0)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.fullmatch(r"Serving .+ at (http://127\.0\.0\.1:\d+)/ \(Ctrl-C to stop\)\n", line)
            assert found, line + process.stderr.read()
            yield found[1]
        finally:
            process.kill()
