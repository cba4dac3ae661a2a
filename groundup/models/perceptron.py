"""The classifier: a multilayer perceptron. No parallel code here: layouts are applied from outside.

Shapes: B rows, F input features, W width of a layer, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundup.models.dropout import Dropout, row_numbers, rows_key
from groundup.models.init import materialise
from groundup.models.initial import Initial
from groundup.models.linear import Linear
from groundup.recipe.table import Classifier

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class HiddenLayer(nn.Module):
    """Linear, norm, activation, dropout."""

    def __init__(self, model: Classifier, inputs: int, width: int, seed: int, name: str) -> None:
        super().__init__()
        self.linear = Linear(inputs, width)
        self.norm = nn.LayerNorm(width) if model.norm == "layer" else None
        self.activation = ACTIVATIONS[model.activation]
        self.dropout = Dropout(model.dropout, width, seed, name)

    def forward(self, x_BF: Tensor, rows_B1: Tensor | None = None) -> Tensor:
        x_BW = self.linear(x_BF)
        if self.norm is not None:
            x_BW = self.norm(x_BW)
        y_BW: Tensor = self.dropout(self.activation(x_BW), rows_B1)
        return y_BW


class Perceptron(nn.Module):
    def __init__(self, model: Classifier, features: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.model, self.features, self.classes = model, features, classes
        self.rows_key = rows_key(seed)
        widths = [features, *model.widths]
        self.layers = nn.ModuleList(
            HiddenLayer(model, inputs, width, seed, f"layers.{n}")
            for n, (inputs, width) in enumerate(zip(widths, model.widths, strict=False))
        )
        self.output = Linear(widths[-1], classes)

    def reset_buffers(self, device: torch.device | str) -> None:
        """Remake what is no parameter, which is lost when a meta model gets its memory."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.reset_buffers(device)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        """Weights and biases uniform within 1 / sqrt(inputs), as torch begins a linear layer; norms one and zero."""
        if ".norm." in name:
            return Initial("constant", 1.0 if name.endswith("weight") else 0.0)
        inputs = shape[1] if len(shape) == 2 else self._inputs(name)
        return Initial("uniform", 1.0 / math.sqrt(inputs))

    def _inputs(self, name: str) -> int:
        """Input width of the linear layer a bias belongs to."""
        widths = [self.features, *self.model.widths]
        return widths[-1] if name.startswith("output") else widths[int(name.split(".")[1])]

    def forward(self, x_BF: Tensor, positions_B: Tensor | None = None) -> Tensor:
        """Logits [B, C]. positions: int64 [B], the rows' places in the stream; needed for dropout in training only."""
        rows_B1 = None
        if self.training and self.model.dropout:
            assert positions_B is not None, "dropout needs the rows' places in the stream"
            rows_B1 = row_numbers(self.rows_key, positions_B)
        for layer in self.layers:
            x_BF = layer(x_BF, rows_B1)
        logits_BC: Tensor = self.output(x_BF)
        return logits_BC


def build_perceptron(model: Classifier, features: int, classes: int, seed: int, device: torch.device) -> Perceptron:
    """A perceptron with initial weights."""
    with torch.device("meta"):
        perceptron = Perceptron(model, features, classes, seed)
    materialise(perceptron, seed, device)
    return perceptron
