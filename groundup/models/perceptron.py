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
from groundup.random import fill_normal_, stream_key
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
        self.linear = nn.Linear(inputs, width)
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
        self.output = nn.Linear(widths[-1], classes)

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


@torch.no_grad()
def build_perceptron(model: Classifier, features: int, classes: int, seed: int, device: torch.device) -> Perceptron:
    """Weights by He et al. (2015, arXiv:1502.01852) before ReLU-like activations, by LeCun's rule before tanh and the
    output; biases zero. A parameter's values depend on the seed and its name alone."""
    with torch.device(device):
        perceptron = Perceptron(model, features, classes, seed)
    for name, parameter in perceptron.named_parameters():
        if parameter.ndim == 2:
            gain = 1.0 if model.activation == "tanh" or name.startswith("output") else math.sqrt(2.0)
            fill_normal_(parameter.data, stream_key(seed, name), gain / math.sqrt(parameter.shape[1]))
        elif name.endswith("bias"):
            parameter.zero_()
    return perceptron
