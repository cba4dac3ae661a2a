"""Shapes without a model: published counts, and agreement with the model that is built."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.models.decoder import Decoder
from groundup.plan.shapes import count_parameters, flops_per_token, parameter_shapes, state_bytes
from groundup.plan.step import samples_per_epoch
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import load
from groundup.recipe.model import Experts, Model
from groundup.recipe.presets import PRESETS
from groundup.rundir import RunDir
from groundup.tasks.language_model import LanguageModel
from tests.conftest import groundup_json

# From the models' cards and technical reports; Qwen3-0.6B counts its tied embedding once.
PUBLISHED = {
    "llama-3-8b": (8_030_261_248, 8_030_261_248),
    "llama-3-70b": (70_553_706_496, 70_553_706_496),
    "llama-3-405b": (405_853_388_800, 405_853_388_800),
    "qwen3-0.6b": (596_049_920, 596_049_920),
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248),
}


def preset(name: str, tmp_path: Path) -> Model:
    path = tmp_path / "preset.toml"
    path.write_text(f'[model]\npreset = "{name}"\n[train]\nsequence_length = 64\n')
    return load(path).recipe.model


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts_exactly(name: str, tmp_path: Path) -> None:
    model = preset(name, tmp_path)
    assert model.vocab_size is not None
    counts = count_parameters(model, model.vocab_size)
    assert (counts.total, counts.active) == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    model = preset(name, tmp_path)
    vocab = model.vocab_size or 1000
    with torch.device("meta"):
        built = Decoder(model, vocab)
    assert {n: tuple(p.shape) for n, p in built.named_parameters()} == dict(parameter_shapes(model, vocab))


def test_shared_experts_and_qk_norm_are_counted() -> None:
    model = Model(qk_norm=True, tied_embeddings=True, experts=Experts(count=4, shared_ffn_size=32))
    with torch.device("meta"):
        built = Decoder(model, 500)
    assert sum(p.numel() for p in built.parameters()) == count_parameters(model, 500).total


def test_flops_are_those_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch counts the products of a forward pass; training is three times that. It counts attention in full."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr("groundup.models.attention.BEST_UP_TO", 0)  # torch's own attention, in products it can count
    model, length = Model(hidden_size=64, layers=2, heads=4, kv_heads=2, context_length=64), 64
    decoder = Decoder(model, 500)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        decoder.logits(decoder(torch.zeros(1, length, dtype=torch.long)).x_BLD)
    attention = 6 * model.layers * model.hidden_size * length
    assert flops_per_token(model, 500, length) + attention == 3 * counter.get_total_flops() / length


def test_state_bytes_are_those_of_the_optimizers() -> None:
    from groundup.optim.optimizers import build_optimizers, state_tensors
    from groundup.recipe.optim import Optim

    model = Model(hidden_size=32, layers=2, heads=2, ffn_size=64)
    for name in ("sgd", "adam", "adamw", "muon"):
        decoder = Decoder(model, 300)
        optimizers = build_optimizers(decoder.named_parameters(), Optim(optimizer=name))
        for parameter in decoder.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        held = sum(t.nbytes for p in decoder.parameters() for _, t in state_tensors(p, optimizers) if t.ndim)
        planned = state_bytes(model, 300, name)
        assert planned["optimizer"] == held, name
        assert planned["weights"] == sum(p.nbytes for p in decoder.parameters())


def test_plan_command(recipe_file: Path) -> None:
    plan = groundup_json("plan", recipe_file)
    assert plan["parameters"]["total"] == sum(layer["parameters"] for layer in plan["layers"])
    assert plan["state_bytes"] == sum(plan["state"].values())
    shaped = [layer for layer in plan["layers"] + plan["one_layer"] if "shape" in layer]
    assert [math.prod(layer["shape"]) for layer in shaped] == [layer["parameters"] for layer in shaped]
    assert plan["training_tokens"] == 12 * 512
    assert plan["rough_seconds_here"] > 0


def test_planned_epochs_are_those_of_the_stream(finished_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Of two sources each has a last window that is partly empty, and one is passed one and a half times."""
    run = RunDir(tmp_path)
    shutil.copytree(finished_run[0] / "data", run.data)
    manifest = json.loads((run.data / "manifest.json").read_text())
    (file,) = (file for file in manifest["files"] if file["split"] == "train")
    manifest["files"].append({**file, "source": 1})
    manifest["sources"].append({**manifest["sources"][0], "epochs": 1.5})
    (run.data / "manifest.json").write_text(json.dumps(manifest))
    recipe = load(finished_run[0] / "recipe.toml", ("train.sequence_length=32",)).recipe
    assert isinstance(recipe, LanguageRecipe)
    assert samples_per_epoch(recipe, run, manifest) == LanguageModel(recipe, run).samples_per_epoch
