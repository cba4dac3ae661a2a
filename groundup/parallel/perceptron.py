"""Tensor parallelism of the perceptron: each hidden layer's units are cut over the ranks, its outputs gathered.

Norm, activation and dropout work on whole rows, the same on all ranks; so does the output layer.
"""

from __future__ import annotations

from torch import Tensor, nn

from groundup.models.perceptron import HiddenLayer, Perceptron
from groundup.parallel.collectives import gather_for_all, share_out
from groundup.parallel.cut import Cuts
from groundup.parallel.mesh import Mesh


def cut_perceptron(model: Perceptron, mesh: Mesh) -> Cuts:
    """Cut the parameters of a perceptron without memory, and hang the layout's hooks on its modules."""
    cuts = Cuts()
    degree = mesh.layout.tensor
    if degree == 1:
        return cuts
    group = mesh.group("tensor")

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (share_out(inputs[0], group),)

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return gather_for_all(output, group, 1)

    for name, module in model.named_modules():
        if isinstance(module, HiddenLayer):
            for key in ("weight", "bias"):
                cuts.cut(model, f"{name}.linear.{key}", 0, "tensor", degree, mesh.index("tensor"))
            module.linear.register_forward_pre_hook(before)
            module.linear.register_forward_hook(after)
    return cuts
