"""Storage that gets full while several ranks write one checkpoint: all take it so, and the one before is whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import groundup, groundup_json
from tests.test_storage_faults import EVERY_THREE, prepared, records, small_disk  # noqa: F401  fixtures
from tests.test_training import losses, same_weights

pytestmark = pytest.mark.slow
TWO = ("--nproc", 2, "--set", "parallel.shard=2", *EVERY_THREE, "--set", "checkpoint.keep_last=1")


def full(rank: int, point: str, skip: int, once: Path | None = None) -> dict[str, str]:
    """The disk is full for one rank, once or from then on, after it has passed the point so many times."""
    fault: dict[str, Any] = {"name": point, "action": "full", "rank": rank, "skip": skip}
    return {"GROUNDUP_FAULTS": json.dumps({"points": [fault | ({"once": str(once)} if once else {})]})}


def verified(run: Path, *words: object) -> list[tuple[int, bool]]:
    return [(e["step"], e["verified"]) for e in groundup_json("checkpoint", "verify", run, *words)["checkpoints"]]


@pytest.fixture(scope="module")
def undisturbed(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.toml").write_text(recipe_text)
    groundup_json("train", folder / "small.toml", "--run-dir", folder / "run", *TWO)
    return folder / "run"


@pytest.mark.parametrize(
    ("rank", "point", "skip"),
    [
        (1, "shard.begin", 1),
        (1, "shard.written", 1),  # once for each checkpoint
        (0, "shard.written", 2),  # for each its own tensors, and the index of all
        (0, "shard.written", 3),
        (0, "commit.written", 1),
    ],
)
def test_a_disk_that_is_full_for_one_rank_costs_all_ranks_this_checkpoint_only(
    prepared: Path,  # noqa: F811
    undisturbed: Path,
    tmp_path: Path,
    rank: int,
    point: str,
    skip: int,
) -> None:
    done = groundup("train", prepared, *TWO, **full(rank, point, skip, tmp_path / "marker"))
    assert done.returncode == 0, done.stderr
    assert "step-00000006 can't be written, and training goes on without it" in done.stderr
    assert "restarting" not in done.stderr
    (failed,) = records(prepared, "checkpoint_failed")
    assert failed["step"] == 6
    assert "No space left on device" in failed["error"]
    assert [record["step"] for record in records(prepared, "checkpoint")] == [3, 9, 12]
    assert verified(prepared) == [(12, True)]
    assert not list(prepared.glob("checkpoints/step-00000006*"))
    assert losses(prepared) == losses(undisturbed)
    assert same_weights(prepared, undisturbed)


def test_a_disk_that_stays_full_for_one_rank_ends_all_ranks_with_a_sentence(
    prepared: Path,  # noqa: F811
    undisturbed: Path,
) -> None:
    done = groundup("train", prepared, *TWO, **full(1, "shard.written", 1))
    assert done.returncode == 2, done.stderr
    assert "step-00000012: the checkpoint can't be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "restarting" not in done.stderr
    assert {record["step"] for record in records(prepared, "checkpoint_failed")} == {6, 9, 12}
    assert [record["step"] for record in records(prepared, "train")] == list(range(1, 13)), "training went on"
    assert verified(prepared) == [(3, True)], "not dropped before another is complete"
    done = groundup("train", prepared, *TWO)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 3" in done.stderr
    assert losses(prepared) == losses(undisturbed)
    assert same_weights(prepared, undisturbed)


def test_two_ranks_fill_a_disk_for_real(prepared: Path, small_disk: Path) -> None:  # noqa: F811
    place = ("--set", f'checkpoint.place="{small_disk}"')
    done = groundup("train", prepared, *TWO, *place)
    assert done.returncode == 2, done.stderr
    assert f"{small_disk}/step-00000012: the checkpoint can't be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert [record["step"] for record in records(prepared, "train")] == list(range(1, 13))
    assert verified(prepared, *place) == [(3, True)]
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    done = groundup("train", prepared, *TWO, *place)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 3" in done.stderr
