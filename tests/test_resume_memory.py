"""Resuming needs no more memory than starting: real processes, their peak as the system tells it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

# 11 million parameters: 128 MB of weights and moments, which a second copy of them would show beside all else.
MODEL = ("model.hidden_size=384", "model.layers=6", "model.heads=6", "model.ffn_size=1024")
STATE_MB = 120  # at least
# Without the copy for saving in the background, which both need, so that loading stands out.
SETTINGS = (*MODEL, "checkpoint.asynchronous=false", "train.micro_batch=2", "train.batch_tokens=128")


def peak_mb(pid: int) -> float:
    """VmHWM of a process, in MB; 0 where it is gone. Unlike ru_maxrss it is not that of the process forked from."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def workers_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def train(recipe: Path, run: Path, steps: int, *words: object) -> float:
    """Train up to so many steps; the highest peak of a process that trains, in MB."""
    settings = [word for setting in (*SETTINGS, f'train.duration="{steps} steps"') for word in ("--set", setting)]
    command = [sys.executable, "-m", "groundup", "train", str(recipe), "--run-dir", str(run), *settings, "--json"]
    peaks: dict[int, float] = {}
    with subprocess.Popen(
        [*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:

        def watch() -> None:
            while process.poll() is None:
                for pid in workers_of(process.pid) if words else [process.pid]:
                    peaks[pid] = max(peaks.get(pid, 0.0), peak_mb(pid))
                time.sleep(0.01)

        watching = threading.Thread(target=watch)
        watching.start()
        out, err = process.communicate(timeout=600)
        watching.join()
    assert process.returncode == 0, err
    assert json.loads(out)["step"] == steps
    return max(peaks.values())


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--nproc", 2, "--set", "parallel.shard=2")], ids=["one", "two"])
def test_resuming_needs_no_more_memory_than_starting(
    recipe_file: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    run = tmp_path / "run"
    prepare = [sys.executable, "-m", "groundup", "prepare", str(recipe_file), "--run-dir", str(run)]
    subprocess.run([*prepare, *(word for one in SETTINGS for word in ("--set", one))], check=True, capture_output=True)
    start = train(recipe_file, run, 2, *words)
    (manifest,) = (run / "checkpoints").glob("step-00000002/manifest.json")
    assert json.loads(manifest.read_text())["bytes"] > STATE_MB * 1e6
    # Other programs on the machine add to a peak now and then; a copy of the state would be in both.
    resume = min(train(recipe_file, run, steps, *words) for steps in (4, 6))
    print(f"peak of a start {start:.0f} MB, of a resume {resume:.0f} MB")
    assert resume <= 1.05 * start
