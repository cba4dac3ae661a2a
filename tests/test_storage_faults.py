"""Storage that is full, read-only or slow under a real training; a time limit; what status says of a job that hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groundup.rundir import RunDir
from groundup.status import pulse_state, status
from tests.conftest import groundup, groundup_json

EVERY_THREE = ("--set", 'checkpoint.every="3 steps"')


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint of the small model and a half."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=576k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"CI must be able to mount a tmpfs: {made.stderr!r}", pytrace=False)
        pytest.skip("a tmpfs can't be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def prepared(finished_run: tuple[Path, object], tmp_path: Path) -> Path:
    """The data of the finished run, with nothing trained."""
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    for step in ("train", "evaluate", "export"):
        (run / "steps" / f"{step}.json").unlink()
    return run


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint_that_was_whole(prepared: Path, small_disk: Path) -> None:
    place = ("--set", f'checkpoint.place="{small_disk}"', *EVERY_THREE)
    done = groundup("train", prepared, *place)
    assert done.returncode == 2, done.stderr
    assert f"{small_disk}/step-00000012: the checkpoint can't be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert [record["step"] for record in records(prepared, "checkpoint")] == [3]
    assert {record["step"] for record in records(prepared, "checkpoint_failed")} == {6, 9, 12}
    assert [record["step"] for record in records(prepared, "train")] == list(range(1, 13)), "training went on"
    (entry,) = groundup_json("checkpoint", "verify", prepared, *place)["checkpoints"]
    assert (entry["step"], entry["verified"]) == (3, True)

    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = groundup("train", prepared, *place)
    assert done.returncode == 2, done.stderr
    assert "Read-only file system" in done.stderr

    subprocess.run(["mount", "-o", "remount,rw,size=4m", small_disk], check=True)
    done = groundup("train", prepared, *place)
    assert done.returncode == 0, done.stderr
    assert "resuming at step 3" in done.stderr


def test_training_goes_on_while_storage_is_slow(prepared: Path) -> None:
    wait = {"name": "shard.written", "action": "wait:2", "skip": 2}  # two files make a checkpoint
    faults = json.dumps({"points": [wait | {"once": str(prepared / "waited")}]})
    groundup_json("train", prepared, *EVERY_THREE, GROUNDUP_FAULTS=faults)
    slow = next(record for record in records(prepared, "checkpoint") if record["step"] == 6)
    assert slow["seconds"] > 2
    assert slow["stall_seconds"] < 1


@pytest.mark.slow
def test_the_time_limit_saves_and_leaves(prepared: Path) -> None:
    limit = ("--set", 'train.time_limit="8s"', "--set", 'train.duration="100000 steps"')
    start = time.monotonic()
    done = groundup("train", prepared, *limit, "--set", 'checkpoint.every="100000 steps"')
    assert done.returncode == 130, done.stderr
    assert time.monotonic() - start < 60
    steps = [0, *(record["step"] for record in records(prepared, "train"))]  # a busy machine takes long to start
    step = steps[-1]
    assert f"stopped by train.time_limit at step {step}; saved in" in done.stderr
    found = groundup_json("status", prepared)
    assert (found["state"], found["last_checkpoint_step"]) == ("interrupted", step)
    result = groundup_json("train", prepared, "--set", f'train.duration="{step + 3} steps"')
    assert result["step"] == step + 3


@pytest.mark.slow
def test_what_may_differ_is_allowed_by_name(finished_run: tuple[Path, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    longer = ("--set", "model.rope_theta=20000.0", "--set", 'train.duration="14 steps"')
    done = groundup("train", run, *longer)
    assert done.returncode == 2
    assert "go on all the same with --allow model.rope_theta" in done.stderr
    done = groundup("train", run, *longer, "--allow", "modle")
    assert done.returncode == 2
    assert "nothing is called 'modle'" in done.stderr
    done = groundup("train", run, *longer, "--allow", "model.rope_theta")
    assert done.returncode == 0, done.stderr
    assert "allowed to differ from the checkpoint: model.rope_theta was 10000.0, is 20000.0" in done.stderr


@pytest.mark.parametrize(
    ("life", "step", "usual", "state"),
    [
        (0.5, 0.5, 1.0, "running"),
        (0.5, 30.0, 1.0, "slow"),
        (0.5, 30.0, 20.0, "running"),
        (90.0, 90.0, 1.0, "stuck"),
        (90.0, 90.0, 20.0, "running"),
        (500.0, 500.0, 20.0, "stuck"),
        (90.0, 90.0, None, "stuck"),
        (90.0, 90.0, "start", "running"),
        (700.0, 700.0, "start", "stuck"),
    ],
)
def test_a_stuck_job_is_told_from_a_slow_one(life: float, step: float, usual: Any, state: str) -> None:
    """ "start": no step is finished yet."""
    pulse = {"time": 1000.0 - life, "step_time": 1000.0 - step, "seconds_per_step": usual, "step": 3}
    if usual == "start":
        pulse |= {"seconds_per_step": None, "step": None}
    assert pulse_state(pulse, 1000.0) == state


def test_status_reads_the_sign_of_life(finished_run: tuple[Path, object], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run[0], folder)
    run = RunDir(folder)
    now = time.time()
    pulse = {"host": os.uname().nodename, "pid": os.getpid(), "time": now - 100, "step_time": now - 120, "step": 4}
    run.heartbeat.write_text(json.dumps(pulse | {"seconds_per_step": 0.5}))
    with run.lock():
        found = status(run)
    assert found["state"] == "stuck"
    assert 119 < found["seconds_since_step"] < 150
    run.heartbeat.write_text(json.dumps(pulse | {"seconds_per_step": 0.5, "pid": 2**22 - 1}))
    assert status(run)["state"] == "finished", "whoever gave that sign is gone"
