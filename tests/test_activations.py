"""Activation checkpointing: which layers are computed again, and what of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from torch.utils.flop_counter import FlopCounterMode

from groundup.parallel.activations import checkpoint_activations
from groundup.parallel.build import build_parallel
from groundup.parallel.stages import Stage
from groundup.parity.tasks import made_up
from groundup.recipe.layout import Layout
from groundup.recipe.load import load

SHORT = ("train.sequence_length=16", "train.batch_tokens=256")
CPU = torch.device("cpu")


def recipe_with(*changes: str) -> Any:
    return load(Path("examples/tiny.toml"), (*SHORT, *changes)).recipe


def passes_and_flops(*changes: str) -> tuple[list[int], int]:
    """How often each layer's feed-forward part runs in a step of one sample, and the products' operations in all."""
    recipe = recipe_with(*changes)
    task = made_up(recipe)
    model = build_parallel(task, recipe, Layout(), CPU).module
    passes: Counter[int] = Counter()
    for number, layer in enumerate(task.layers(model)):
        layer.ffn.register_forward_pre_hook(lambda module, inputs, n=number: passes.update([n]))
    batch = task.batch(0, 1)
    with FlopCounterMode(display=False) as counter:
        loss, _ = task.loss(model, model(**task.arguments(batch)), batch)
        loss.backward()
    return [passes[n] for n in range(8)], counter.get_total_flops()


def test_layers_are_computed_again_wholly_or_without_their_products() -> None:
    once, flops = passes_and_flops()
    assert once == [1] * 8
    full, more = passes_and_flops('parallel.activation_checkpointing="full"')
    assert full == [2] * 8
    assert more > 1.2 * flops
    selective, same = passes_and_flops('parallel.activation_checkpointing="selective"')
    assert selective == [2] * 8
    assert flops <= same < 1.1 * flops


@pytest.mark.parametrize("every", [2, 3])
def test_every_nth_layer_is_one_of_the_whole_model(every: int) -> None:
    changes = ('parallel.activation_checkpointing="full"', f"parallel.checkpoint_every={every}")
    expected = [n % every == 0 for n in range(8)]
    assert passes_and_flops(*changes)[0] == [1 + again for again in expected]
    recipe = recipe_with(*changes)
    task = made_up(recipe)
    again = []
    for number in range(8):  # stages of one layer each
        stage = Stage(task.skeleton(), (number, number + 1), number, 8)
        (layer,) = layers = task.layers(stage.model)
        before = layer.forward
        checkpoint_activations(layers, recipe.parallel)
        again.append(layer.forward != before)
    assert again == expected


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_layers_that_are_computed_again_are_compiled_all_the_same(kind: str) -> None:
    """With the gradients of layers that are not, and less kept."""
    found = {}
    for name, changes in {
        "plain": (),
        "compiled": ("train.compile=true",),
        "again": ("train.compile=true", f'parallel.activation_checkpointing="{kind}"'),
    }.items():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        recipe = recipe_with(*changes)
        task = made_up(recipe)
        model = build_parallel(task, recipe, Layout(), CPU).module
        batch, kept = task.batch(0, 1), {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = task.loss(model, model(**task.arguments(batch)), batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[name] = (gradient, sum(kept.values()), torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert found["plain"][2] == 0
    assert found["compiled"][2] > 0
    assert found["again"][2] > 0
    assert found["again"][1] < found["compiled"][1]
    torch.testing.assert_close(found["again"][0], found["plain"][0], rtol=1e-4, atol=1e-5)
