"""The plan of a run: model by layer, work, state and a rough time."""

from __future__ import annotations

import math
from typing import Any

from groundup.plan.shapes import count_parameters, flops_per_token, layer_shapes, state_bytes
from groundup.recipe.language import LanguageRecipe

ROUGH_PEAK_SHARE = 0.5  # of a matrix product's speed: the quickstart reached 0.56 on two CPU cores


def model_plan(recipe: LanguageRecipe, vocab_size: int | None = None) -> dict[str, Any]:
    """What follows from the recipe alone: parameters, FLOPs per token, bytes of state, layers."""
    model, vocab = recipe.model, vocab_size or recipe.vocab_size
    counts = count_parameters(model, vocab)
    state = state_bytes(model, vocab, recipe.optim.optimizer)
    embedding = {"name": "embedding", "shape": [vocab, model.hidden_size], "parameters": counts.embedding}
    layers: list[dict[str, Any]] = [embedding]
    layer = list(layer_shapes(model))
    size = sum(math.prod(shape) for _, shape in layer)
    for number in range(model.layers):
        layers.append({"name": f"layers.{number}", "parameters": size})  # of several shapes: see one_layer
    layers.append({"name": "norm", "shape": [model.hidden_size], "parameters": model.hidden_size})
    output = {"name": "output", "shape": [vocab, model.hidden_size], "parameters": counts.embedding}
    if model.tied_embeddings:
        output.update(name="output (the embedding)", parameters=0)
    layers.append(output)
    return {
        "parameters": {"total": counts.total, "embedding": counts.embedding, "active": counts.active},
        "flops_per_token": flops_per_token(model, vocab, recipe.train.sequence_length),
        "state_bytes": sum(state.values()),
        "state": state,
        "layers": layers,
        "one_layer": [{"name": n, "shape": list(s), "parameters": math.prod(s)} for n, s in layer],
    }


def training_tokens(recipe: LanguageRecipe, samples_per_epoch: int | None) -> int | None:
    """Tokens of the whole run; None where it is given in epochs and no data is prepared."""
    if recipe.train.duration.unit == "epochs" and samples_per_epoch is None:
        return None
    return recipe.pace(samples_per_epoch).steps(recipe.train.duration) * recipe.train.batch_tokens


def rough_seconds(flops: float, peak: float) -> float:
    """Time of so many operations at a rough share of this machine's measured peak."""
    return round(flops / (peak * ROUGH_PEAK_SHARE), 3)
