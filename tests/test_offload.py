"""Shards in the host's memory. On a CPU nothing moves, but FSDP and our own steps take the way that they take with a
GPU: the numbers must be those of shards that stay where they are, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import CPUOffloadPolicy

from groundup.errors import UserError
from groundup.optim.optimizers import state_tensors
from groundup.parallel import sharding
from groundup.parallel.model import local
from groundup.parity.pool import Pool
from groundup.parity.reference import CPU, fresh_state
from groundup.parity.tasks import made_up
from groundup.recipe.load import load
from groundup.recipe.parallel_checks import legal_layout
from groundup.train.judge import Judge
from groundup.train.loop import train_step

TINY = Path(__file__).parents[1] / "examples" / "tiny.toml"
SMALL = ("model.layers=4", "train.sequence_length=16", "train.batch_tokens=128", "train.device='cpu'")


class _Rate:
    def lr(self, samples: int) -> float:
        return 1e-3


def _trained(settings: tuple[str, ...], world: int) -> tuple[dict[str, Tensor], list[float], int]:
    """Weights and moments of this rank after three steps, the losses, and how many modules were told to offload."""
    recipe = load(TINY, (*SMALL, *settings)).recipe
    policies: list[object] = []
    wrap = sharding.fully_shard

    def noted(*arguments: object, **options: object) -> object:
        policies.append(options["offload_policy"])
        return wrap(*arguments, **options)  # type: ignore[call-overload]

    sharding.fully_shard = noted  # type: ignore[assignment]
    try:
        state = fresh_state(recipe, legal_layout(recipe, world))
    finally:
        sharding.fully_shard = wrap
    state.judge = Judge(None, 16, False, CPU)
    task, losses = made_up(recipe), []
    for _ in range(3):
        stop = state.samples + recipe.samples_per_step
        losses.append(float(train_step(state, stop, task, recipe, _Rate(), CPU).loss))
        state.samples = stop
    found = {}
    for name, parameter in state.model.named_parameters():
        found[name] = local(parameter.detach()).clone()
        for key, moment in state_tensors(parameter, state.optimizers):
            found[f"{name}.{key}"] = local(moment).clone()
    return found, losses, sum(isinstance(policy, CPUOffloadPolicy) for policy in policies)


@pytest.mark.parametrize(
    ("world", "layout"),
    [
        (2, ("parallel.shard=2",)),
        pytest.param(4, ("parallel.shard=2", "parallel.tensor=2"), marks=pytest.mark.slow),
        pytest.param(
            4, ("parallel.pipeline=2", "parallel.shard=2", "model.tied_embeddings=true"), marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_the_numbers_are_those_without(world: int, layout: tuple[str, ...]) -> None:
    with Pool(world) as pool:
        without = pool.run(world, _trained, layout, world)
        offloaded = pool.run(world, _trained, (*layout, "parallel.offload=true"), world)
    for (here, losses, none), (there, offloaded_losses, some) in zip(without, offloaded, strict=True):
        assert none == 0
        assert some > 2  # the layers of a stage, and what is around them
        assert losses == offloaded_losses
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name], there[name]) for name in here)


def test_without_shards_nothing_uses_it() -> None:
    recipe = load(TINY, (*SMALL, "parallel.offload=true")).recipe
    assert legal_layout(recipe, 2).shard == 2
    with pytest.raises(UserError, match="without shards nothing uses it"):
        legal_layout(recipe, 1)
    with pytest.raises(UserError, match="without shards nothing uses it"):
        load(TINY, (*SMALL, "parallel.offload=true", "parallel.shard=1", "parallel.replicate=2"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("parallel.shard=2", "optim.optimizer='muon'"), "muon needs whole matrices"),
        (("parallel.shard=2", "optim.precision='fp16'"), "the loss scale of fp16"),
    ],
)
def test_what_does_not_go_with_it_is_told(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(TINY, (*SMALL, "parallel.offload=true", *settings))
