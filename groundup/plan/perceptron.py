"""Shapes, parameters and work of a perceptron, without building it. F features, C classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from groundup.plan.shapes import optimizer_bytes
from groundup.recipe.table import Classifier, TableRecipe


def parameter_shapes(model: Classifier, features: int, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter, by the names in a checkpoint."""
    inputs = features
    for number, width in enumerate(model.widths):
        yield f"layers.{number}.linear.weight", (width, inputs)
        yield f"layers.{number}.linear.bias", (width,)
        if model.norm == "layer":
            yield f"layers.{number}.norm.weight", (width,)
            yield f"layers.{number}.norm.bias", (width,)
        inputs = width
    yield "output.weight", (classes, inputs)
    yield "output.bias", (classes,)


def flops_per_row(model: Classifier, features: int, classes: int) -> float:
    """Of training: two per weight forward and four backward, where the first layer's input needs no gradient."""
    matrices = [shape for _, shape in parameter_shapes(model, features, classes) if len(shape) == 2]
    return float(sum(6 * math.prod(shape) for shape in matrices) - 2 * math.prod(matrices[0]))


def perceptron_plan(recipe: TableRecipe, features: int, classes: int) -> dict[str, Any]:
    """Parameters, FLOPs per row, bytes of state, layers."""
    shapes = list(parameter_shapes(recipe.model, features, classes))
    total = sum(math.prod(shape) for _, shape in shapes)
    matrices = {name: math.prod(shape) for name, shape in shapes if len(shape) == 2}
    hidden = sum(n for name, n in matrices.items() if name.startswith("layers."))
    state = {
        "weights": 4 * total,
        "gradients": 4 * total,
        "optimizer": optimizer_bytes(recipe.optim.optimizer, total, hidden),
    }
    return {
        "parameters": {"total": total, "matrices": sum(matrices.values())},
        "features": features,
        "classes": classes,
        "flops_per_row": flops_per_row(recipe.model, features, classes),
        "state_bytes": sum(state.values()),
        "state": state,
        "layers": [{"name": name, "shape": list(shape), "parameters": math.prod(shape)} for name, shape in shapes],
    }
