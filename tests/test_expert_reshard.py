"""Checkpoints of experts in any layout from any other: the same bits by global name, of moments and biases too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from groundup.parity.pool import Pool
from groundup.parity.verdict import EXPERTS as TOLERANCES
from groundup.train import checkpoint
from groundup.train.manifest import Checkpoints
from groundup.train.storage import open_storage
from tests import save_work
from tests.guard_work import BATCH

# Two experts are fewer than four shards, which then cut the experts' width.
MODELS = {
    count: (f"model.experts={{count={count}, per_token={per_token}, ffn_size=32}}", "model.qk_norm=false")
    for count, per_token in ((4, 2), (2, 1))
}
# By degrees above 1: the number of processes, and the recipe's settings.
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "single": (1, ()),
    "tensor 2": (2, ("parallel.tensor=2",)),
    "pipeline 2": (2, ("parallel.pipeline=2", "train.micro_batch=1")),
    "context 2": (2, ("parallel.context=2",)),
    "shard 2 x expert 2": (2, ("parallel.shard=2", "parallel.expert=2")),
    "context 2 x expert 2": (2, ("parallel.context=2", "parallel.expert=2")),
    "shard 4": (4, ("parallel.shard=4",)),
    "shard 4 x expert 2": (4, ("parallel.shard=4", "parallel.expert=2")),
    "shard 2 x tensor 2 x expert 2": (4, ("parallel.shard=2", "parallel.tensor=2", "parallel.expert=2")),
    "replicate 2 x shard 2 x expert 2": (4, ("parallel.replicate=2", "parallel.shard=2", "parallel.expert=2")),
    "pipeline 2 x shard 2 x expert 2": (
        4,
        ("parallel.pipeline=2", "parallel.shard=2", "parallel.expert=2", "train.micro_batch=1"),
    ),
}
PAIRS = [
    ("shard 2 x expert 2", "single"),
    ("shard 2 x expert 2", "tensor 2"),
    ("shard 2 x expert 2", "pipeline 2"),
    ("shard 4 x expert 2", "shard 4"),
    ("shard 4 x expert 2", "pipeline 2 x shard 2 x expert 2"),
    ("shard 2 x tensor 2 x expert 2", "single"),
    ("shard 2 x tensor 2 x expert 2", "shard 4"),
    ("shard 2 x tensor 2 x expert 2", "pipeline 2 x shard 2 x expert 2"),
    ("shard 2 x tensor 2 x expert 2", "context 2"),
    ("context 2 x expert 2", "replicate 2 x shard 2 x expert 2"),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


def whole(place: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint, as one process reads it."""
    checkpoints = Checkpoints(open_storage(place))
    entries = checkpoint.shapes(checkpoints, 1)
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    checkpoint.load(checkpoints, 1, tensors)
    return tensors


def refuse_other_bits(place: Path, other: Path) -> None:
    one, two = whole(place), whole(other)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype, name
        assert torch.equal(tensor, two[name]), name


@pytest.mark.parametrize("experts", [4, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_experts_are_resharded_to_the_bit_and_back(
    pool: Pool, tmp_path: Path, first: str, second: str, experts: int
) -> None:
    processes, settings = LAYOUTS[first]
    undisturbed = pool.run(processes, save_work.train_and_save, tmp_path / "0", (*MODELS[experts], *settings))[0]
    held = whole(tmp_path / "0")
    moments = [name for name in held if name.startswith("optim.") and "experts" in name and name.endswith("exp_avg")]
    assert moments, sorted(held)
    assert all(held[name].any() for name in moments), "moments that a reshard could lose"
    assert any(name.endswith("bias_E") and held[name].any() for name in held), sorted(held)
    for number, layout in enumerate((second, first)):
        processes, settings = LAYOUTS[layout]
        places = (tmp_path / str(number), tmp_path / str(number + 1))
        found = pool.run(processes, save_work.load_and_save, *places, (*MODELS[experts], *settings))
        refuse_other_bits(*places)
        for samples, figures in found:
            assert samples == BATCH
            assert figures == pytest.approx(undisturbed, rel=TOLERANCES["loss_difference"]), layout
