"""The dry run against real processes that are observed in the same way, and against torch's own profiler of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile

from groundup.dry_run.observe import Seen, make_moments, observed_step
from groundup.dry_run.run import dry_run, traced
from groundup.dry_run.trace import held_bytes
from groundup.parity.pool import Pool
from groundup.parity.reference import CPU, fresh_state
from groundup.parity.tasks import made_up
from groundup.plan.shapes import count_parameters
from groundup.recipe.layout import Layout
from groundup.recipe.load import load
from groundup.recipe.parallel_checks import legal_layout
from groundup.recipe.sections import Recipe
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update
from tests.conftest import groundup, groundup_json

TINY = Path(__file__).parents[1] / "examples" / "tiny.toml"
SMALL = ("model.layers=4", "train.batch_tokens=512", "train.device='cpu'", "train.micro_batch=2")
EXPERTS = ("model.qk_norm=false", "model.head_dim=8", "model.experts={count=8, per_token=2, ffn_size=32}")


def small(*settings: str) -> Recipe:
    return load(TINY, (*SMALL, *settings)).recipe


def step(state: TrainState, recipe: Recipe) -> None:
    task = made_up(recipe)
    _, norm = compute_gradients(state, recipe.samples_per_step, task, recipe, CPU)
    update(state, norm, recipe, recipe.optim.lr, task)


def real_step(settings: tuple[str, ...], world: int) -> Seen:
    """The second step: before the first, the stages of a pipeline tell each other their shapes."""
    recipe = small(*settings)
    state = fresh_state(recipe, legal_layout(recipe, world))
    step(state, recipe)
    return observed_step(state, made_up(recipe), recipe, CPU)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (1, ()),
        (4, ("parallel.shard=4", "parallel.activation_checkpointing='selective'")),
        pytest.param(4, ("parallel.replicate=2", "parallel.shard=2", "optim.optimizer='muon'"), marks=pytest.mark.slow),
        pytest.param(4, ("parallel.tensor=2", "parallel.context=2"), marks=pytest.mark.slow),
        (2, ("parallel.context=2", "parallel.context_attention='ring'")),
        (4, ("parallel.pipeline=2", "parallel.shard=2", "model.tied_embeddings=true")),
        (2, ("parallel.pipeline=2", "parallel.schedule='zbv'")),
        (2, ("parallel.shard=2", "parallel.expert=2", *EXPERTS)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_state_and_collectives_are_those_of_real_processes(pool: Pool, world: int, settings: tuple[str, ...]) -> None:
    recipe = small(*settings)
    layout = legal_layout(recipe, world)
    real = pool.run(world, real_step, settings, world)
    for rank in {0, world - 1}:
        found, expected = traced(recipe, layout, rank), real[rank]
        for kind in ("weights", "gradients", "optimizer"):
            assert found.memory[kind] == expected.memory[kind] > 0
        if layout.expert > 1:
            # How many rows come back from other ranks' experts depends on the data.
            for seen in (found, expected):
                for counts in seen.by_dimension.values():
                    counts.get("all_to_all", {}).pop("bytes", None)
        assert found.by_dimension == expected.by_dimension
        assert found.memory["peak"] == pytest.approx(expected.memory["peak"], rel=0.1)


def test_peak_is_what_torchs_profiler_sees() -> None:
    recipe = small()
    state = fresh_state(recipe, Layout())
    make_moments(state)
    step(state, recipe)
    parameters = [p for _, p in state.model.named_parameters()]
    moments = [t for o in state.optimizers for s in o.state.values() for t in s.values()]
    held = peak = held_bytes([*parameters, *moments, *state.model.module.buffers()])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(state, recipe)
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    found = traced(recipe, Layout(), 0).memory["peak"]
    # What the operator of attention takes for itself is not seen.
    assert found == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (1, ()),
        (2, ("parallel.replicate=2",)),
        (2, ("parallel.shard=2",)),
        (2, ("parallel.pipeline=2",)),
        (2, ("parallel.pipeline=2", "parallel.schedule='gpipe'")),
        (2, ("parallel.pipeline=2", "parallel.schedule='interleaved-1f1b'")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_few_micro_batches_stand_for_many(world: int, settings: tuple[str, ...]) -> None:
    recipe = small("train.micro_batch=1", "train.batch_tokens=1536", *settings)
    layout = legal_layout(recipe, world)
    rank = world - 1
    found, count = dry_run(recipe, layout, rank)
    expected = traced(recipe, layout, rank)
    assert count < 24 / layout.data
    assert found.by_dimension == expected.by_dimension
    assert found.memory == expected.memory


def test_eight_billion_parameters_on_1024_ranks() -> None:
    """Two layers of them here; all 32 take half a minute."""
    options = ("--dry-run", "--ranks", "1024", "--set", "parallel.tensor=8", "--set", "model.layers=2")
    small = "model.vocab_size=32000"  # whose gathered fp32 rows don't hide what attention keeps
    options = (*options, "--set", small)
    result = groundup_json("plan", str(TINY.with_name("llama-3-8b.toml")), *options)
    assert result["layout"] == {
        "pipeline": 1, "replicate": 1, "shard": 128, "context": 1, "tensor": 8, "expert": 1
    }  # fmt: skip
    assert result["legal"]
    (rank,) = result["ranks"]
    model: Any = load(TINY.with_name("llama-3-8b.toml"), ("model.layers=2", small)).recipe.model
    each = 4 * count_parameters(model, model.vocab_size).total / 1024
    assert each <= rank["memory"]["weights"] <= 1.01 * each
    assert rank["memory"]["gradients"] == rank["memory"]["weights"]
    assert rank["memory"]["optimizer"] == pytest.approx(2 * rank["memory"]["weights"], rel=1e-4)
    # Probabilities of attention are not kept: a GPU's kernels compute them again.
    tokens, heads = 8192, 4
    assert rank["memory"]["activations"] < 2 * 2 * heads * tokens * tokens * 2
    assert rank["collectives"]["all_gather"]["bytes"] > 4 * each


def test_stages_at_both_ends_are_reported() -> None:
    options = ("--dry-run", "--ranks", "4", *(x for s in SMALL for x in ("--set", s)), "--set", "parallel.pipeline=2")
    result = groundup_json("plan", str(TINY), *options)
    assert [(row["rank"], row["stage"]) for row in result["ranks"]] == [(0, [0]), (2, [1])]
    assert all(row["collectives"]["send"]["count"] == 2 for row in result["ranks"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ranks", "4"), "Add --dry-run"),
        (("--dry-run", "--ranks", "4", "--rank", "4"), "there is no rank 4"),
        (("--dry-run", "--ranks", "6", "--set", "parallel.tensor=4"), "takes a multiple of 4 processes"),
        (("--dry-run", "--ranks", "32"), "fewer than the data ranks"),
    ],
)
def test_mistakes_are_told(options: tuple[str, ...], said: str) -> None:
    result = groundup("plan", str(TINY), *options)
    assert result.returncode == 2
    assert said in result.stderr
