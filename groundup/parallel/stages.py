"""Stages of a pipeline: where a model is cut, which rank holds which piece, and what travels between them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from groundup.models.decoder import Decoder, Hidden
from groundup.models.perceptron import Perceptron
from groundup.recipe.parallel import Parallel

Model = Decoder | Perceptron


def stages_of_rank(parallel: Parallel, rank: int) -> list[int]:
    """Numbers of the stages a pipeline rank holds: round and round, or there and back again under "zbv"."""
    ranks, stages = parallel.pipeline, parallel.stages
    if parallel.schedule == "zbv":
        return [rank, stages - 1 - rank]
    return list(range(rank, stages, ranks))


def rank_of_stage(parallel: Parallel, stage: int) -> int:
    return next(rank for rank in range(parallel.pipeline) if stage in stages_of_rank(parallel, rank))


def cut_points(model: Model, parallel: Parallel) -> list[tuple[int, int]]:
    """Layers [first, last) of each stage. The perceptron's output counts as its last layer."""
    costs = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
    if isinstance(model, Perceptron):
        costs.append(sum(p.numel() for p in model.output.parameters()))
    names = [f"layers.{n}" for n in range(len(model.layers))] + ["output"]
    if parallel.cuts is not None:
        bounds = [0, *(names.index(cut) for cut in parallel.cuts), len(costs)]
    else:
        tail = 0 if isinstance(model, Perceptron) else model.output_weight.numel()
        bounds = balanced([*costs[:-1], costs[-1] + tail], parallel.stages)
    return list(itertools.pairwise(bounds))


def balanced(costs: list[int], pieces: int) -> list[int]:
    """Bounds of contiguous pieces, none empty, whose costliest is as cheap as can be."""
    total = [0]
    for cost in costs:
        total.append(total[-1] + cost)
    count = len(costs)
    best: list[list[float]] = [[math.inf] * (count + 1) for _ in range(pieces + 1)]
    before = [[0] * (count + 1) for _ in range(pieces + 1)]
    best[0][0] = 0
    for piece in range(1, pieces + 1):
        for stop in range(piece, count + 1):
            for start in range(piece - 1, stop):
                largest = max(best[piece - 1][start], total[stop] - total[start])
                if largest < best[piece][stop]:
                    best[piece][stop], before[piece][stop] = largest, start
    bounds = [count]
    for piece in range(pieces, 0, -1):
        bounds.insert(0, before[piece][bounds[0]])
    return bounds


class Stage(nn.Module):
    """Some of a model's layers. The first stage ignores what comes in and reads the samples; tensors go out."""

    def __init__(self, whole: Model, layers: tuple[int, int], number: int, stages: int) -> None:
        super().__init__()
        self.first, self.last = number == 0, number == stages - 1
        self.context: Callable[[], AbstractContextManager[object]] = nullcontext  # of forward passes
        self.model = model = copy.deepcopy(whole)
        for n in range(len(whole.layers)):
            if not layers[0] <= n < layers[1]:
                del model.layers._modules[str(n)]  # the others keep their names
        if isinstance(model, Perceptron):
            if not self.last:
                model.output = nn.Identity()  # type: ignore[assignment]
            return
        tied = model.output is None
        if not self.first and not (self.last and tied):
            model.embedding = None  # type: ignore[assignment]
        if not self.last:
            model.norm = nn.Identity()  # type: ignore[assignment]
            model.output = None

    def forward(self, entering: Tensor, auxiliary: Tensor | None = None, **arguments: Tensor) -> Any:
        with self.context():
            return self._forward(entering, auxiliary, **arguments)

    def _forward(self, entering: Tensor, auxiliary: Tensor | None, **arguments: Tensor) -> Any:
        if isinstance(self.model, Perceptron):
            y = self.model(arguments["x_BF"] if self.first else entering, arguments["positions_B"])
            return y if self.last else y.float()  # what travels is fp32, whatever autocast makes of it
        hidden: Hidden = self.model(**arguments, entering=None if self.first else Hidden(entering, auxiliary))
        return hidden.x_BLD if hidden.auxiliary is None else (hidden.x_BLD, hidden.auxiliary)

    def output(self, out: Any) -> Any:
        """What the whole model's forward pass gives, of what the last stage's did."""
        if isinstance(self.model, Perceptron):
            return out
        return Hidden(*out) if isinstance(out, tuple) else Hidden(out, None)


def entering_shapes(model: Model, bounds: list[tuple[int, int]], rows: int, block: int) -> list[list[tuple[int, ...]]]:
    """Shapes of the tensors that enter each stage with a micro-batch of `rows`; the first gets one number per
    micro-batch. block: tokens of a sample that a rank holds between layers."""
    if isinstance(model, Perceptron):
        widths = model.model.widths
        later: list[list[tuple[int, ...]]] = [[(rows, widths[first - 1])] for first, _ in bounds[1:]]
        return [[(1,)], *later]
    auxiliary: list[tuple[int, ...]] = [] if model.model.experts is None else [()]
    return [[(1,)], *[[(rows, block, model.model.hidden_size), *auxiliary] for _ in bounds[1:]]]
