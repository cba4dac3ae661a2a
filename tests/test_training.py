"""Training in real processes: going on after a kill, refusing another model, damaged checkpoints, status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.rundir import RunDir
from groundup.train import checkpoint
from groundup.train.manifest import Checkpoints
from groundup.train.storage import open_storage
from tests.conftest import groundup, groundup_json


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's tensors, optimizer included."""
    checkpoints = saved(run)
    found = checkpoint.newest(checkpoints)
    assert found is not None
    entries = checkpoint.shapes(checkpoints, found[0])
    tensors = {n: torch.empty(e.size, dtype=e.properties.dtype) for n, e in entries.items()}
    checkpoint.load(checkpoints, found[0], tensors)
    return tensors


def same_weights(one: Path, other: Path) -> bool:
    """Whether the newest checkpoints hold the same bits: weights, and the optimizer's state."""
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def saved(run: Path) -> Checkpoints:
    return Checkpoints(open_storage(run / "checkpoints"))


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        if (run / "metrics.jsonl").exists() and any(s >= step for s in losses_so_far(run)):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("training does not get on")


def wait_for_checkpoint(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """It is written beside the steps that follow it."""
    for _ in range(2400):
        if max(saved(run).complete(), default=0) >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no checkpoint is written")


def losses_so_far(run: Path) -> list[int]:
    found = []
    for line in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]:
        row = json.loads(line)
        if row["kind"] == "train":
            found.append(row["step"])
    return found


def start(recipe: Path, run: Path, *settings: str) -> subprocess.Popen[str]:
    words = [x for s in settings for x in ("--set", s)]
    return subprocess.Popen(
        [sys.executable, "-m", "groundup", "train", str(recipe), "--run-dir", str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )


LONG = ('train.duration="60 steps"', 'checkpoint.every="5 steps"', 'train.validate_every="30 steps"')


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_same_command_goes_on_and_ends_bit_identical(
    recipe_file: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    groundup_json("train", recipe_file, "--run-dir", whole, *(x for s in LONG for x in ("--set", s)))
    process = start(recipe_file, cut, *LONG)
    wait_for_step(cut, 12, process)
    wait_for_checkpoint(cut, 10, process)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    state = groundup_json("status", cut)
    assert state["state"] == "interrupted"
    assert 10 <= state["last_checkpoint_step"] < 60
    if stop == signal.SIGKILL:
        assert process.returncode == -stop
    else:
        assert process.returncode == 130, errors
        assert f"stopped by {stop.name}" in errors
        assert state["last_checkpoint_step"] == state["step"], "what was done is saved"
    result = groundup_json("train", recipe_file, "--run-dir", cut, *(x for s in LONG for x in ("--set", s)))
    assert result["step"] == 60
    assert losses(cut) == losses(whole), "every step's loss, those before, across and after the cut"
    one, other = weights(whole), weights(cut)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def trained(finished_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(finished_run[0], tmp_path / "run")
    return tmp_path / "run"


def test_longer_duration_goes_on_from_the_end(trained: Path) -> None:
    result = groundup_json("train", trained, "--set", 'train.duration="15 steps"')
    assert (result["step"], result["samples_consumed"]) == (15, 15 * 8)
    assert sorted(losses(trained)) == list(range(1, 16))
    made_by = saved(trained).manifest(15)["lineage"]
    assert made_by["torch"] == torch.__version__
    assert len(made_by["recipe_sha256"]) == 64


def test_a_training_process_holds_no_libraries_of_preparing(trained: Path) -> None:
    """Each rank would pay for them, in memory and in time to start."""
    words = ["train", str(trained), "--set", 'train.duration="40 steps"', "--json"]
    program = (
        "import atexit, sys\nfrom groundup.cli import cli\n"
        "heavy = {'numba', 'pyarrow', 'scipy', 'transformers'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        f"cli({words!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 40
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(trained: Path) -> None:
    newest = trained / "checkpoints" / "step-00000012"
    data = next(newest.glob("*/rank-0.bin"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    done = groundup("train", trained, "--set", 'train.duration="14 steps"')
    assert done.returncode == 0, done.stderr
    assert f"{newest} is damaged and not used" in done.stderr
    assert "resuming at step 11" in done.stderr


def test_an_incomplete_checkpoint_is_ignored_and_cleaned_up(trained: Path) -> None:
    left_over = trained / "checkpoints" / "step-00000099"
    left_over.mkdir()
    (left_over / "rank-0.bin").write_bytes(b"half")
    done = groundup("train", trained, "--set", 'train.duration="13 steps"')
    assert done.returncode == 0, done.stderr
    assert "resuming at step 12" in done.stderr
    assert not left_over.exists()


def test_another_model_or_other_data_is_refused_with_what_differs(trained: Path) -> None:
    done = groundup("train", trained, "--set", "model.layers=3", "--set", "seed=8")
    assert done.returncode == 2
    assert "model.layers was 2, is 3" in done.stderr
    assert "seed was 7, is 8" in done.stderr
    assert "--restart" in done.stderr
    assert "--allow seed --allow model.layers" in done.stderr
    result = groundup_json(
        "train", trained, "--restart", "--set", "model.layers=3", "--set", 'train.duration="2 steps"'
    )
    assert result["step"] == 2
    kept = list((trained / "superseded").glob("*/checkpoints/step-*/manifest.json"))
    assert len(kept) == 2, "the old training is set aside, not deleted"


def test_a_changed_learning_rate_goes_on(trained: Path) -> None:
    done = groundup("train", trained, "--set", "optim.lr=0.001", "--set", 'train.duration="13 steps"')
    assert done.returncode == 0, done.stderr
    assert "resuming at step 12" in done.stderr


def test_two_processes_do_not_share_a_run_folder(trained: Path) -> None:
    with RunDir(trained).lock():
        done = groundup("train", trained)
        state = groundup_json("status", trained)
    assert done.returncode == 2
    assert "another process is working in this run folder" in done.stderr
    assert state["state"] == "running"
    assert groundup_json("status", trained)["state"] == "finished"


def test_a_loss_that_is_not_finite_stops_the_run(recipe_file: Path, tmp_path: Path) -> None:
    done = groundup("train", recipe_file, "--run-dir", tmp_path / "run", "--set", "optim.lr=1e30")
    assert done.returncode == 1
    assert "the loss is nan at step" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        ['optim.precision="fp16"', 'train.duration="3 steps"'],
        ['optim.optimizer="muon"', "model.qk_norm=true", "model.tied_embeddings=true", "train.deterministic=true"],
        ["model.experts={count=4, per_token=2}", "model.hidden_size=32", 'optim.optimizer="muon"'],
        ["optim.label_smoothing=0.1", "optim.z_loss=1e-4", 'optim.optimizer="sgd"', "optim.clip_norm=0.0"],
    ],
    ids=["fp16", "muon", "experts", "losses"],
)
def test_variants_train(recipe_file: Path, tmp_path: Path, settings: list[str]) -> None:
    words = [x for s in settings for x in ("--set", s)]
    result = groundup_json("train", recipe_file, "--run-dir", tmp_path / "run", *words)
    found = losses(tmp_path / "run")
    assert result["step"] == max(found)
    if "optim.precision" not in settings[0]:
        assert found[12] < found[1]


@pytest.mark.slow
def test_compiled_is_eager_in_numbers(recipe_file: Path, tmp_path: Path) -> None:
    curves = []
    for compiled in ("false", "true"):
        run = tmp_path / compiled
        groundup_json("train", recipe_file, "--run-dir", run, "--set", f"train.compile={compiled}")
        curves.append(losses(run))
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


@pytest.mark.slow
def test_accumulation_does_not_change_the_numbers(recipe_file: Path, tmp_path: Path) -> None:
    """The same global batch in one, two and eight micro-batches."""
    curves = []
    for micro in (8, 4, 1):
        run = tmp_path / f"micro{micro}"
        groundup_json("train", recipe_file, "--run-dir", run, "--set", f"train.micro_batch={micro}")
        curves.append(losses(run))
    for other in curves[1:]:
        assert other == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.slow
def test_trackers_get_the_numbers(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    groundup_json("train", recipe_file, "--run-dir", run, "--set", 'train.trackers=["tensorboard"]')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    written = {e.step: e.value for e in events.Scalars("train/loss")}
    assert written == pytest.approx(losses(run))
    assert "validation/bits_per_byte" in events.Tags()["scalars"]
    missing = groundup("train", recipe_file, "--run-dir", tmp_path / "other", "--set", 'train.trackers=["wandb"]')
    assert missing.returncode == 2
    assert "pip install 'groundup[wandb]'" in missing.stderr


def test_a_torn_metrics_line_is_passed_over(trained: Path) -> None:
    with (trained / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert groundup_json("status", trained)["step"] == 12
    groundup_json("train", trained, "--set", 'train.duration="13 steps"')
    assert groundup_json("status", trained)["step"] == 13


def test_evaluation_counts_every_byte_once(finished_run: tuple[Path, dict[str, Any]]) -> None:
    run, _ = finished_run
    result = groundup_json("evaluate", run)
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    assert result["bytes"] == manifest["splits"]["validation"]["bytes"]
    assert result["tokens"] == manifest["splits"]["validation"]["tokens"] - 1
    import math

    summed = result["loss"] * result["tokens"]
    assert result["bits_per_byte"] == pytest.approx(summed / math.log(2) / result["bytes"])
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
