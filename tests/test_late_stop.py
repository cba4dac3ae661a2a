"""A signal that comes while the last checkpoint is written: the training is done, and nothing begins after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.errors import EXIT_INTERRUPTED
from tests.conftest import groundup
from tests.launched import until
from tests.test_training import losses_so_far


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_no_step_begins_after_it(recipe_file: Path, tmp_path: Path, processes: int) -> None:
    run = tmp_path / "run"
    slow = json.dumps({"points": [{"name": "shard.begin", "action": "wait:3", "rank": 0}]})
    words = [
        "run",
        recipe_file,
        "--run-dir",
        run,
        "--nproc",
        processes,
        "--set",
        'checkpoint.every="100 steps"',
        "--json",
    ]
    command = [sys.executable, "-m", "groundup", *map(str, words)]
    with subprocess.Popen(
        command, env={**os.environ, "GROUNDUP_FAULTS": slow}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: (run / "metrics.jsonl").exists() and 12 in losses_so_far(run))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=150)
    assert process.returncode == EXIT_INTERRUPTED, err
    assert "stopped by SIGTERM" in json.loads(out)["error"]["what"]
    assert (run / "steps" / "train.json").exists()
    assert not (run / "evaluate.json").exists()
    done = groundup("run", run)
    assert done.returncode == 0, done.stderr
    assert "train: up to date, skipped" in done.stderr
    assert (run / "evaluate.json").exists()
