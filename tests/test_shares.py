"""Who writes which block of a checkpoint: each once, in turn, and nobody copies what another writes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.parity.pool import Pool
from groundup.train import checkpoint
from groundup.train.manifest import Checkpoints
from groundup.train.shares import Key, writers
from groundup.train.storage import open_storage
from tests import save_work
from tests.test_expert_reshard import MODELS

# Settings by layout, processes, and on how many of them a block is held.
LAYOUTS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "replicate 2": (("parallel.replicate=2",), 2, 2),
    "shard 2": (("parallel.shard=2",), 2, 1),
    "replicate 4": (("parallel.replicate=4",), 4, 4),
    "replicate 2 x shard 2": (("parallel.replicate=2", "parallel.shard=2"), 4, 2),
    "replicate 2 x tensor 2": (("parallel.replicate=2", "parallel.tensor=2"), 4, 2),
    "experts": ((*MODELS[4], "parallel.replicate=2", "parallel.shard=2", "parallel.expert=2"), 4, 2),
    "tied in a pipeline": (("parallel.pipeline=2", "train.micro_batch=1", "model.tied_embeddings=true"), 2, 1),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(4) as pool:
        yield pool


def whole(place: Path, step: int) -> dict[str, torch.Tensor]:
    checkpoints = Checkpoints(open_storage(place))
    entries = checkpoint.shapes(checkpoints, step)
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    checkpoint.load(checkpoints, step, tensors)
    return tensors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rank_copies_what_it_writes_and_nothing_else(pool: Pool, tmp_path: Path, layout: str) -> None:
    settings, processes, held_on = LAYOUTS[layout]
    by_rank = pool.run(processes, save_work.staged_and_written, tmp_path, settings)
    for step in range(3):
        saves = [rank[step] for rank in by_rank]
        assert all(staged == written for staged, written in saves), saves
        tensors = whole(tmp_path, step)
        total = sum(tensor.nbytes for tensor in tensors.values())
        assert sum(written for _, written in saves) == total, "each block once"
        if held_on > 1:  # of what one rank alone holds it writes all
            largest = max(tensor.nbytes for tensor in tensors.values())
            assert max(staged for staged, _ in saves) <= total / processes + largest, saves
        checkpoint.verify(Checkpoints(open_storage(tmp_path)), step)
    ours, plain = whole(tmp_path, 2), whole(tmp_path, 9)
    assert ours.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in ours.items())


@given(st.data())
def test_each_block_is_written_once_by_one_that_holds_it(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 100), max_size=20))
    ranks = data.draw(st.integers(1, 5))
    everyone: list[dict[Key, int]] = [{} for _ in range(ranks)]
    for number, size in enumerate(sizes):
        for rank in data.draw(st.sets(st.integers(0, ranks - 1), min_size=1)):
            everyone[rank][f"t{number}", (0,)] = size
    found = writers(everyone)
    assert sorted(name for names in found for name in names) == sorted(f"t{number}" for number in range(len(sizes)))
    for rank, names in enumerate(found):
        assert all((name, (0,)) in everyone[rank] for name in names)


def test_replicas_write_about_as_much_each() -> None:
    sizes = [100, 60, 50, 40, 30, 20, 10, 10]
    everyone: list[dict[Key, int]] = [{(f"t{n}", (0,)): size for n, size in enumerate(sizes)} for _ in range(3)]
    everyone[0]["own", (0,)] = 70
    loads = [sum(everyone[rank][name, (0,)] for name in names) for rank, names in enumerate(writers(everyone))]
    assert max(loads) <= math.ceil(sum(loads) / 3) + 10
