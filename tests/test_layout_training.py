"""Real runs through the command line in several layouts: the same losses, and checkpoints that any layout reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import groundup, groundup_json

SETTINGS = ("--set", 'checkpoint.every="4 steps"', "--set", "checkpoint.keep_last=5")
LAYOUTS = {
    "single": (),
    "shard": ("--nproc", 2, "--set", "parallel.shard=2"),
    "tensor": ("--nproc", 2, "--set", "parallel.tensor=2"),
    "context": ("--nproc", 2, "--set", "parallel.context=2"),
    "pipeline": ("--nproc", 2, "--set", "parallel.pipeline=2"),
}


def losses(run: Path) -> dict[int, float]:
    """By step; of steps trained twice the last."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def validations(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "validation"}


def forget_after(run: Path, step: int) -> None:
    """As if the run had been killed after the checkpoint of this step."""
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    (run / "steps" / "train.json").unlink()


@pytest.fixture(scope="module")
def single(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by one process, beside its recipe."""
    folder = tmp_path_factory.mktemp("single")
    (folder / "small.toml").write_text(recipe_text)
    groundup_json("train", folder / "small.toml", "--run-dir", folder / "run", *SETTINGS)
    return folder / "run"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("shard", "single"),
        pytest.param("single", "pipeline", marks=pytest.mark.slow),
        pytest.param("tensor", "context", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_another_layout(first: str, second: str, single: Path, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", single.parent / "small.toml"
    shutil.copytree(single, run)
    shutil.rmtree(run / "checkpoints")
    for name in ("metrics.jsonl", "steps/train.json"):
        (run / name).unlink()
    groundup_json("train", recipe, "--run-dir", run, *SETTINGS, *LAYOUTS[first])
    assert losses(run) == pytest.approx(losses(single), rel=1e-4)
    assert validations(run) == pytest.approx(validations(single), rel=1e-4)
    forget_after(run, 4)
    result = groundup_json("train", recipe, "--run-dir", run, *SETTINGS, *LAYOUTS[second])
    assert result["step"] == 12
    assert losses(run) == pytest.approx(losses(single), rel=1e-4)
    assert validations(run) == pytest.approx(validations(single), rel=1e-4)
    manifest = json.loads((run / "checkpoints" / "step-00000012" / "manifest.json").read_text())
    degrees = {name: degree for name, degree in manifest["layout"].items() if degree > 1}
    assert degrees == ({} if second == "single" else {second: 2})


@pytest.mark.slow
def test_the_textbooks_pipeline_of_two_parts_and_eight_chunks(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "examples" / "digits.toml"
    runs = {"one": (), "two": ("--nproc", 2, "--set", "parallel.pipeline=2", "--set", "parallel.microbatches=8")}
    found = {}
    for name, layout in runs.items():
        settings = ("--set", 'train.duration="1 epochs"', "--set", "train.threads=1")
        groundup_json("train", recipe, "--run-dir", tmp_path / name, *settings, *layout)
        found[name] = (losses(tmp_path / name), groundup_json("evaluate", tmp_path / name))
    assert found["two"][0] == pytest.approx(found["one"][0], rel=1e-4)
    assert found["two"][1]["accuracy"] == pytest.approx(found["one"][1]["accuracy"], abs=0.005)


@pytest.mark.slow
def test_where_a_stage_begins_can_be_named(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[1] / "examples" / "digits.toml"
    words = ("--set", "parallel.pipeline=2", "--set", "parallel.microbatches=4", "--set", 'train.duration="1 epochs"')
    cut = ("--set", 'parallel.cuts=["output"]', "--set", "train.threads=1")
    groundup_json("train", recipe, "--run-dir", tmp_path / "run", "--nproc", 2, *words, *cut)
    refused = groundup("train", recipe, "--run-dir", tmp_path / "run", *words, "--set", 'parallel.cuts=["layers.9"]')
    assert refused.returncode == 2
    assert "no later stage can begin with layers.9" in refused.stderr
