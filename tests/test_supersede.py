"""Setting an earlier training aside, killed between any two of its moves: nothing is lost, and nothing is mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from groundup.command import Target
from groundup.errors import UserError
from groundup.recipe.load import load
from groundup.rundir import RunDir
from groundup.train.supersede import refuse_cut_short, set_aside
from tests.conftest import groundup
from tests.test_training import losses, same_weights

OF_TRAINING = ("checkpoints", "metrics.jsonl", "tensorboard", "steps/train.json")


def content(folder: Path, *names: str) -> dict[str, bytes]:
    """Bytes of the files under these names, by the names' last parts."""
    found = {}
    for name in names:
        path = folder / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                found[str(file.relative_to(path.parent))] = file.read_bytes()
    return found


@pytest.fixture
def trained(finished_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events").write_bytes(b"of the old one")
    return run


def killed(run: Path, point: str, skip: int) -> None:
    fault = {"name": point, "action": "kill", "skip": skip}
    done = groundup("train", run, "--restart", GROUNDUP_FAULTS=json.dumps({"points": [fault]}))
    assert done.returncode == -9, done.stderr


def the_one_aside(run: Path) -> Path:
    (aside,) = (run / "superseded").iterdir()
    return aside


POINTS = [*(("aside.move", skip) for skip in range(len(OF_TRAINING))), ("aside.moved", 0)]


@pytest.mark.parametrize(("point", "skip"), POINTS)
def test_whoever_comes_next_moves_the_rest(trained: Path, point: str, skip: int) -> None:
    old = content(trained, *OF_TRAINING)
    killed(trained, point, skip)
    with pytest.raises(UserError, match="cut short here"):
        refuse_cut_short(RunDir(trained))
    with Target(trained, None, ()).opened():
        assert not any((trained / name).exists() for name in OF_TRAINING)
    aside = the_one_aside(trained)
    assert content(aside, *(path.name for path in aside.iterdir())) == old
    refuse_cut_short(RunDir(trained))


@pytest.mark.parametrize("words", [(), ("--restart",)])
def test_the_training_that_follows_is_a_whole_one(
    trained: Path, finished_run: tuple[Path, dict[str, Any]], words: tuple[str, ...]
) -> None:
    killed(trained, "aside.move", 1)  # checkpoints are gone, metrics are not
    done = groundup("train", trained, *words)
    assert done.returncode == 0, done.stderr
    assert "the rest of it is moved" in done.stderr
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 13)), "and none of the old one"
    assert losses(trained) == losses(finished_run[0])
    assert same_weights(trained, finished_run[0])
    assert content(the_one_aside(trained), "metrics.jsonl") == content(finished_run[0], "metrics.jsonl")


def test_a_kill_before_anything_moves_leaves_the_training_as_it_is(trained: Path) -> None:
    old = content(trained, *OF_TRAINING)
    killed(trained, "aside.begin", 0)
    with Target(trained, None, ()).opened():
        assert content(trained, *OF_TRAINING) == old
    assert not (trained / "superseded").exists()


def test_two_within_a_second_do_not_meet(trained: Path) -> None:
    run, recipe = RunDir(trained), load(trained / "recipe.toml").recipe
    set_aside(recipe, run)
    set_aside(recipe, run)
    run.metrics.write_text("of the second\n")
    set_aside(recipe, run)
    first, second = sorted((trained / "superseded").iterdir(), key=lambda path: (len(path.name), path.name))
    assert (first / "checkpoints").is_dir()
    assert content(second, "metrics.jsonl") == {"metrics.jsonl": b"of the second\n"}
    assert [path.name for path in second.iterdir()] == ["metrics.jsonl"]
