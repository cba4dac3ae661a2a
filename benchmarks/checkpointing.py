"""What checkpoints cost a training: how long the loop waits for one that is written in the background, beside one that
is written at once, and what the writing takes from the steps beside it.

A real run of a 100M-parameter decoder on the text of examples/quickstart.toml, once with each kind, in turn. The first
save of a run makes the buffers and is left out. Prints a table, then one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.toml"
SETTINGS = (
    'optim.precision="fp32"',
    'optim.optimizer="adamw"',
    "optim.lr=0.001",
    "model.hidden_size=768",
    "model.layers=12",
    "model.heads=12",
    "model.kv_heads=12",
    "model.head_dim=64",
    "model.ffn_size=2048",
    "train.sequence_length=256",
    "train.micro_batch=1",
    "train.log_every=1",
    'train.validate_every="1000000 steps"',
    'train.sample_every="1000000 steps"',
    'optim.warmup="0 steps"',
    "train.trackers=[]",
)
APART = 50  # steps between checkpoints, for which the cost is told


def train(run: Path, saves: int, every: int, tokens: int, asynchronous: bool) -> dict[str, Any]:
    settings = [
        *SETTINGS,
        f"train.batch_tokens={tokens}",
        f'train.duration="{(saves + 1) * every} steps"',
        f'checkpoint.every="{every} steps"',
        f"checkpoint.asynchronous={str(asynchronous).lower()}",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "groundup", "train", str(QUICKSTART), "--run-dir", str(run), "--json", *words]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row for row in rows if row["kind"] == "train"}
    seconds = {n: row["seconds"] - (steps[n - 1]["seconds"] if n > 1 else 0.0) for n, row in steps.items()}
    # The last is written at once in either kind.
    saved = [row for row in rows if row["kind"] == "checkpoint" and 1 < row["step"] / every <= saves]
    beside, alone = [], list[float]()
    for row in saved:
        left, during = row["seconds"] - row["stall_seconds"], list[float]()
        for n in range(row["step"] + 1, row["step"] + every + 1):
            (during if left > 0 else alone).append(seconds[n])
            left -= seconds[n]
        if left > 0 or len(during) == every:
            raise SystemExit(f"a checkpoint was still being written {every} steps later: give more with --every")
        beside.append(during)
    usual = statistics.median(alone)
    extra = statistics.median(sum(during) - len(during) * usual for during in beside)
    stall = statistics.median(row["stall_seconds"] for row in saved)
    return {
        "stall_seconds": stall,
        "stalls": [row["stall_seconds"] for row in saved],
        "written_seconds": statistics.median(row["seconds"] for row in saved),
        "slower_beside_seconds": extra,
        "step_seconds": usual,
        "cost": (stall + extra) / (APART * usual),
        "parameters": result["parameters"],
        "peak_memory_mb": result["peak_memory_mb"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=5, help="in the background, and as many at once")
    parser.add_argument("--every", type=int, default=6, help="steps between saves of the measured runs")
    parser.add_argument("--tokens", type=int, default=2048, help="per step, a multiple of 256")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, asynchronous in (("at once", False), ("in the background", True)):
            run = Path(folder) / "run"
            found[name] = train(run, options.saves, options.every, options.tokens, asynchronous)
            shutil.rmtree(run)
    print(f"{'checkpoints':<18} {'stall':>8} {'written':>9} {'beside':>8} {'step':>8} {'cost every 50 steps':>20}")
    for name, row in found.items():
        print(
            f"{name:<18} {row['stall_seconds']:>6.3f} s {row['written_seconds']:>7.3f} s "
            f"{row['slower_beside_seconds']:>6.3f} s {row['step_seconds']:>6.3f} s {row['cost']:>20.2%}"
        )
    ratio = found["in the background"]["stall_seconds"] / found["at once"]["stall_seconds"]
    print(f"stall in the background beside at once: {ratio:.3f}")
    print(json.dumps({"stall_ratio": ratio, **found}))


if __name__ == "__main__":
    main()
