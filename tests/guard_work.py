"""What processes do in tests of bad steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.parallel.model import local
from groundup.parity.tasks import made_up
from groundup.recipe.layout import resolve
from groundup.recipe.load import load
from groundup.train.blocks import Block
from groundup.train.judge import Judge
from groundup.train.loop import train_step
from groundup.train.state import TrainState

CPU = torch.device("cpu")
TINY = Path(__file__).parents[1] / "examples" / "tiny.toml"
BATCH = 4
BAD = BATCH - 1  # of the step's samples the last, which is on the last rank


class FixedRate:
    def lr(self, samples: int) -> float:
        return 0.01


def state_of(settings: tuple[str, ...]) -> tuple[TrainState, Any, Any]:
    """State, task and recipe of a small model on made-up text."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    recipe = load(TINY, ("model.layers=2", "model.hidden_size=32", "model.heads=4", *settings)).recipe
    model: Any = recipe.model
    if model.experts is not None:
        experts = model.experts.model_copy(update={"balance": "bias"})  # recipes don't allow what can't be exported
        recipe = recipe.model_copy(update={"model": model.model_copy(update={"experts": experts})})
    task = made_up(recipe)
    parallel = build_parallel(task, recipe, resolve(recipe.parallel, world), CPU)
    parallel.train()
    optimizers = build_optimizers(parallel.named_parameters(), recipe.optim, parallel.whole())
    scaler = gradient_scaler(recipe.optim.precision, CPU)
    state = TrainState(parallel, optimizers, scaler)
    state.judge = Judge(6.0, 16, scaler.is_enabled(), CPU)
    return state, task, recipe


def all_of(state: TrainState) -> dict[str, Tensor]:
    """Copies of all that a step may change, what is not yet there left out."""
    found = {name: x.held if isinstance(x, Block) else local(x) for name, x in state.tensors().items()}
    found |= {f"loads.{n}": b for c in state.model.chunks for n, b in c.named_buffers() if n.endswith("load_E")}
    scale = state.scaler.state_dict()
    found |= {f"scaler.{key}": torch.tensor(scale[key]) for key in ("scale", "_growth_tracker") if key in scale}
    return {name: x.clone() for name, x in found.items()}


def leaves_no_trace(settings: tuple[str, ...], before: int) -> list[float]:
    """After so many good steps a bad one, and a good one that must be skipped too, change nothing; from there training
    goes on as if they had not been. Returns losses and norms."""
    torch.manual_seed(0)
    state, task, recipe = state_of(settings)
    twin, twins_task, _ = state_of(settings)
    fetch, found = task.batch, list[float]()

    def spoilt(start: int, stop: int) -> Any:
        batch = fetch(start, stop)
        if not start <= state.samples + BAD < stop:
            return batch
        weights_BL = batch.weights_BL.clone()
        weights_BL[state.samples + BAD - start] = torch.nan
        return replace(batch, weights_BL=weights_BL)

    def step(state: TrainState, task: Any) -> None:
        result = train_step(state, state.samples + BATCH, task, recipe, FixedRate(), CPU)
        found.extend([float(result.loss), float(result.grad_norm)])

    for _ in range(before):
        for one, its_task in ((state, task), (twin, twins_task)):
            step(one, its_task)
            one.samples += BATCH
    kept = all_of(state)
    task.batch = spoilt
    step(state, task)
    task.batch = fetch
    state.samples += BATCH
    step(state, task)
    after = all_of(state)
    for name, tensor in after.items():
        if name in kept:
            assert torch.equal(tensor, kept[name]), f"{name} has changed"
        else:
            assert not before
            assert not tensor.any(), f"{name} has not begun at zero"
    assert state.judge is not None
    verdicts = [judged.bad for judged in state.judge.read()]
    assert verdicts == [False] * before + [True, False]
    state.judge.go_on()
    state.samples -= BATCH
    for one, its_task in ((state, task), (twin, twins_task)):
        step(one, its_task)
        one.samples += BATCH
        step(one, its_task)
    ours, theirs = all_of(state), all_of(twin)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), f"{name} differs from a run without the bad step"
        if name in kept and name.startswith("model.") and name.endswith("weight"):
            assert not torch.equal(tensor, kept[name]), f"{name} is not trained"
    return [value for value in found if value == value]


def overflow() -> tuple[bool, float]:
    """Of a step whose gradients overflow under a loss scale: whether it is bad, and by what the scale changes."""
    state, task, recipe = state_of(('optim.precision="fp16"',))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    train_step(state, BATCH, task, recipe, FixedRate(), CPU)
    assert state.judge is not None
    (judged,) = state.judge.read()
    assert judged.norm != judged.norm or judged.norm == float("inf")
    return judged.bad, state.scaler.get_scale() / 2.0**127
