"""From the kill of a rank to the next training step: `python benchmarks/restart.py [--kills N]`.

Trains the quickstart's model on two processes through the command line, kills ranks of it with SIGKILL, in turn, and
reads from metrics.jsonl when the next step is there. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = """\
name = "restart"
[data]
sources = [{{ path = "{corpus}" }}]
[tokenizer]
vocab_size = 300
[model]
hidden_size = 64
layers = 2
heads = 2
context_length = 128
[train]
duration = "1000000 steps"
batch_tokens = 1024
sequence_length = 64
micro_batch = 8
log_every = 1
threads = 1
trackers = []
[checkpoint]
every = "20 steps"
"""


def workers(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def steps(metrics: Path) -> list[int]:
    rows = map(json.loads, metrics.read_text().splitlines()) if metrics.exists() else []
    return [row["step"] for row in rows if row["kind"] == "train"]


def until(metrics: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until the file has more than `count` steps."""
    deadline = time.monotonic() + 300
    while len(steps(metrics)) <= count:
        assert process.poll() is None, f"the training ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, "no step within 300 s"
        time.sleep(0.02)


def measure(kills: int, nproc: int) -> dict[str, Any]:
    """Seconds from each kill to the next step."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, recipe, run = Path(folder, "corpus.jsonl"), Path(folder, "restart.toml"), Path(folder, "run")
        texts = (" ".join(f"River {n} runs to sea {n * m}." for m in range(20)) for n in range(2000))
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        recipe.write_text(RECIPE.format(corpus=corpus))
        command = [sys.executable, "-m", "groundup", "train", str(recipe), "--run-dir", str(run), "--nproc", str(nproc)]
        found, metrics = [], run / "metrics.jsonl"
        with Path(folder, "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
            for number in range(kills):
                until(metrics, len(steps(metrics)) + 30, process)  # a checkpoint is in between
                victim = workers(process.pid)[number % nproc]
                os.kill(victim, signal.SIGKILL)
                start, before = time.monotonic(), len(steps(metrics))
                while str(victim) in map(str, workers(process.pid)):
                    time.sleep(0.01)
                before = len(steps(metrics))  # what the others wrote until the agent ended them
                until(metrics, before, process)
                found.append(round(time.monotonic() - start, 2))
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        told = Path(folder, "log").read_text().count("restarting")
    return {
        "kills": kills,
        "restarts": told,
        "processes": nproc,
        "seconds": found,
        "median_seconds": statistics.median(found),
        "max_seconds": max(found),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--nproc", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps(measure(options.kills, options.nproc), indent=1))
