"""What ranks must agree on, on real processes; and blocks of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.models.init import fill
from groundup.models.initial import Initial
from groundup.parallel.stages import balanced, rank_of_stage, stages_of_rank
from groundup.parity.pool import Pool
from groundup.part import Part, even_cut
from groundup.recipe.parallel import Parallel
from tests import parallel_work


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(8) as pool:
        yield pool


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_stop_after_the_same_step(pool: Pool, rank: int) -> None:
    assert pool.run(2, parallel_work.stop_asked_on, rank) == [[False, False, True, True]] * 2


def test_an_infinite_gradient_on_one_rank_skips_the_step_on_all(pool: Pool) -> None:
    assert pool.run(2, parallel_work.weight_after_infinite_gradient_on, 1) == [([1.0, 1.0, 1.0], 4.0)] * 2
    assert pool.run(2, parallel_work.weight_after_infinite_gradient_on, -1) == [([0.5, 0.5, 0.5], 8.0)] * 2


def test_ranks_are_row_major_with_tensor_innermost(pool: Pool) -> None:
    found = pool.run(8, parallel_work.groups)[6]  # pipeline 1, shard 1, tensor 0
    assert found == {
        "pipeline": [2, 6],
        "shard": [4, 6],
        "tensor": [6, 7],
        "fsdp": [4, 6],
        "expert": [4, 6],
        "expert_data": [6],
        "shard tensor": [4, 5, 6, 7],
        "sum": [22],
    }


def test_a_cut_vocabulary_gives_the_loss_of_the_whole(pool: Pool) -> None:
    found = pool.run(4, parallel_work.loss_of_a_cut_vocabulary)
    assert len({loss for loss, _ in found}) == 1
    assert all(difference < 1e-3 for _, difference in found)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", [True, False])
def test_bf16_is_the_same_in_layouts(pool: Pool, instructions: bool) -> None:
    """Hidden states stay fp32 between layers, sharded or not, so stages agree on what travels."""
    expected = pool.run(1, parallel_work.losses_in_bf16, (), instructions)[0]
    for settings_ in (("parallel.shard=2", "parallel.pipeline=2"), ("parallel.shard=2", "parallel.tensor=2")):
        found = pool.run(4, parallel_work.losses_in_bf16, settings_, instructions)
        assert found == [pytest.approx(expected, rel=1e-3)] * 4


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(0, 3)), max_size=3),
    kind=st.sampled_from(["normal", "uniform", "constant"]),
)
def test_any_block_of_a_parameter_is_made_alone(shape: list[int], cuts: list[tuple[int, int, int]], kind: str) -> None:
    whole = torch.empty(shape)
    initial = Initial(kind, 0.5)  # type: ignore[arg-type]
    fill(whole, initial, 3, "layers.0.weight")
    part = Part.whole(tuple(shape))
    for dim, pieces, index in cuts:
        dim, index = dim % len(shape), index % pieces
        part = part.cut(dim, *even_cut(part.size[dim], pieces, index))
    block = torch.empty(part.size)
    fill(block, initial, 3, "layers.0.weight", part)
    assert torch.equal(block, part.of(whole))


@given(length=st.integers(0, 50), pieces=st.integers(1, 9))
def test_pieces_make_up_the_whole(length: int, pieces: int) -> None:
    bounds = [even_cut(length, pieces, index) for index in range(pieces)]
    assert [n for start, stop in bounds for n in range(start, stop)] == list(range(length))


@settings(max_examples=60, deadline=None)
@given(costs=st.lists(st.integers(0, 30), min_size=1, max_size=7), pieces=st.integers(1, 7))
def test_stages_are_as_even_as_can_be(costs: list[int], pieces: int) -> None:
    from itertools import combinations, pairwise

    pieces = min(pieces, len(costs))

    def largest(bounds: list[int]) -> int:
        return max(sum(costs[a:b]) for a, b in pairwise(bounds))

    bounds = balanced(costs, pieces)
    assert bounds[0] == 0
    assert bounds[-1] == len(costs)
    assert all(a < b for a, b in pairwise(bounds))
    every = ([0, *inner, len(costs)] for inner in combinations(range(1, len(costs)), pieces - 1))
    assert largest(bounds) == min(largest(other) for other in every)


@pytest.mark.parametrize(
    ("schedule", "pipeline", "stages"),
    [
        ("1f1b", 2, [[0], [1]]),
        ("interleaved-1f1b", 2, [[0, 2], [1, 3]]),
        ("zbv", 3, [[0, 5], [1, 4], [2, 3]]),
    ],
)
def test_which_rank_holds_which_stages(schedule: str, pipeline: int, stages: list[list[int]]) -> None:
    parallel = Parallel(schedule=schedule, pipeline=pipeline)  # type: ignore[arg-type]
    assert [stages_of_rank(parallel, rank) for rank in range(pipeline)] == stages
    for rank, held in enumerate(stages):
        assert all(rank_of_stage(parallel, stage) == rank for stage in held)


def test_a_uniform_stream_is_uniform() -> None:
    values = torch.empty(400_000)
    fill(values, Initial("uniform", 2.0), 1, "w")
    assert values.abs().max() <= 2.0
    assert values.mean().item() == pytest.approx(0.0, abs=0.01)
    assert values.std().item() == pytest.approx(2.0 / math.sqrt(3), rel=0.01)
