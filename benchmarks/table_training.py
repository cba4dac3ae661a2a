"""Training on a table: Groundup beside a plain DataLoader loop, scikit-learn's MLPClassifier and Lightning.

Two tables, each prepared once by `groundup prepare`; all sides train on the prepared rows, in fp32, with the same
perceptron, batch, learning rate and epochs, each in a process of its own, the sides in turn within each repeat, and
are scored on the same test part. Run it with Groundup's interpreter on an idle machine. Prints tables, then one JSON
object on the last line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environments import BENCHMARKS, TORCH, environment
from table_data import fashion_mnist, synthetic

SEED = 42
LEARNING_RATE = 1e-3
SKLEARN = ("scikit-learn", ["scikit-learn"])
LIGHTNING = ("lightning", [TORCH, "lightning"])
RECIPE = """
name = "{name}"
task = "classification"
seed = {seed}
[data]
path = "{path}"
target = "label"
deduplicate = false
cleaned = "none"
test_fraction = {test_fraction}
validation_fraction = 0.1
[model]
widths = {widths}
dropout = {dropout}
[optim]
optimizer = "adam"
lr = {lr}
betas = [0.9, 0.999]
weight_decay = 0.0
schedule = "constant"
clip_norm = 0.0
precision = "fp32"
[train]
duration = "{epochs} epochs"
batch_rows = {batch}
micro_batch = {batch}
threads = {threads}
device = "cpu"
# On the way nothing but training steps; at the end one validation and one checkpoint.
validate_every = "1000000 steps"
trackers = []
[checkpoint]
every = "1000000 steps"
[evaluate]
checkpoint = "last"
"""


@dataclass(frozen=True)
class Setting:
    """What all sides have in common on one table."""

    widths: list[int]
    dropout: float
    batch: int
    epochs: int
    threads: int

    def recipe(self, name: str, path: Path, test_fraction: float) -> str:
        given = {"name": name, "path": path, "test_fraction": test_fraction, "seed": SEED, "lr": LEARNING_RATE}
        return RECIPE.format(**given, **vars(self))

    def arguments(self, data: Path) -> list[str]:
        """A peer's command line."""
        named = {"data": data, "dropout": self.dropout, "batch": self.batch, "lr": LEARNING_RATE}
        named |= {"epochs": self.epochs, "threads": self.threads, "seed": SEED}
        return [*(f"--{key}={value}" for key, value in named.items()), "--widths", *map(str, self.widths)]


def last_json(command: list[str], threads: int) -> tuple[dict[str, Any], float]:
    """Run a command; its standard output's last line as JSON, and the process's wall time in seconds."""
    variables = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    seconds = time.perf_counter() - start
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexited with {result.returncode}:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1]), seconds


class Bench:
    """One table, prepared, and the sides that train on it."""

    def __init__(self, work: Path, name: str, setting: Setting, test_fraction: float) -> None:
        self.setting, self.recipe = setting, work / f"{name}.toml"
        self.prepared, self.run = work / f"{name}-prepared", work / f"{name}-run"
        self.recipe.write_text(setting.recipe(name, work / f"{name}.parquet", test_fraction))
        self._groundup("prepare", self.prepared)
        self.manifest = json.loads((self.prepared / "data" / "manifest.json").read_text())

    def _groundup(self, verb: str, run: Path) -> tuple[dict[str, Any], float]:
        command = [sys.executable, "-m", "groundup", verb, str(self.recipe), "--run-dir", str(run), "--json"]
        return last_json(command, self.setting.threads)

    def groundup(self) -> dict[str, Any]:
        """Train in a fresh copy of the prepared run folder; time per epoch from the stamps of `metrics.jsonl`."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.prepared, self.run)
        trained, process = self._groundup("train", self.run)
        scored, _ = self._groundup("evaluate", self.run)
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "train"]
        # Log points lie ten steps apart; an epoch's end between two of them is taken on the line that joins them.
        rows = self.manifest["splits"]["train"]["rows"]
        ends = np.interp(
            rows * np.arange(self.setting.epochs + 1),
            [0, *(step["samples_consumed"] for step in steps)],
            [0, *(step["seconds"] for step in steps)],
        )
        return {
            "rows": rows,
            "epoch_seconds": np.diff(ends).round(4).tolist(),
            "training_seconds": trained["training_seconds"],
            "process_seconds": round(process, 2),
            "accuracy": round(scored["accuracy"], 4),
            "loss_last": trained["loss"],
            "parameters": trained["parameters"],
        }

    def peer(self, script: str, python: Path | str = sys.executable, *arguments: str) -> dict[str, Any]:
        command = [str(python), str(BENCHMARKS / "peers" / script), *arguments]
        report, process = last_json([*command, *self.setting.arguments(self.prepared / "data")], self.setting.threads)
        return report | {"process_seconds": round(process, 2)}

    def loader_seconds(self) -> float:
        """Mean time to make a step's batch, in a process of its own."""
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(loader_seconds, self.prepared).result()


def loader_seconds(prepared: Path) -> float:
    """Mean seconds per step that Groundup's loop spends on its batches, over a whole run, the first left out."""
    from groundup.recipe.load import load
    from groundup.rundir import RunDir
    from groundup.tasks.build import build_task
    from groundup.train.device import set_up

    recipe = load(prepared / "recipe.toml", ()).recipe
    device = set_up(recipe.train)
    task = build_task(recipe, RunDir(prepared))
    pace = recipe.pace(task.samples_per_epoch)
    steps = pace.steps(recipe.train.duration)
    samples, start = 0, 0.0
    for step in range(steps):
        if step == 1:  # the first loads a compiled kernel
            start = time.perf_counter()
        end = pace.step_end(samples)
        batch = task.batch(samples, end)
        _ = batch.counted
        batch.rows(0, recipe.train.micro_batch).to(device)
        samples = end
    return (time.perf_counter() - start) / (steps - 1)


def in_turn(sides: dict[str, Any], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run all sides, `repeats` times."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side, run in sides.items():
            report = run() | {"load_average": round(os.getloadavg()[0], 2)}
            if "rows" in report:
                # The first epoch warms up.
                epoch = statistics.median(report["epoch_seconds"][1:] or report["epoch_seconds"])
                report["rows_per_second"] = round(report["rows"] / epoch, 1)
            runs[side].append(report)
            shown = {key: report[key] for key in FIGURES if report.get(key) is not None}
            print(f"repeat {repeat + 1}, {side}: {shown}", file=sys.stderr)
    return runs


FIGURES = ("rows_per_second", "training_seconds", "process_seconds", "accuracy")


def medians(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Over the repeats, of each side's figures."""
    sides: dict[str, dict[str, Any]] = {}
    for side, of in runs.items():
        known = [key for key in FIGURES if of[0].get(key) is not None]
        sides[side] = {key: round(statistics.median(run[key] for run in of), 4) for key in known} | {"runs": of}
    return sides


def run_synthetic(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    synthetic(work / "synthetic.parquet", options.rows, SEED)
    bench = Bench(work, "synthetic", Setting([512, 256], 0.5, 64, options.epochs, options.threads), 0.2)
    sides = {"groundup": bench.groundup} | {
        side: lambda loader=loader: bench.peer("dataloader_loop.py", sys.executable, "--loader", loader)
        for side, loader in (("plain_loop", "dataset"), ("tensor_dataset", "tensors"), ("ceiling", "none"))
    }
    found = medians(in_turn(sides, options.repeats))
    loader = statistics.median(bench.loader_seconds() for _ in range(options.repeats))
    ours, plain = found["groundup"], found["plain_loop"]
    step = bench.setting.batch / ours["rows_per_second"]
    return {
        "sides": found,
        "speed_ratio": round(ours["rows_per_second"] / plain["rows_per_second"], 3),
        "ceiling_ratio": round(found["ceiling"]["rows_per_second"] / plain["rows_per_second"], 3),
        "loader_microseconds": round(1e6 * loader, 1),
        "loader_share": round(loader / step, 4),
        "accuracy_difference": round(ours["accuracy"] - plain["accuracy"], 4),
    }


def run_fashion(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    fashion_mnist(work / "fashion.parquet", options.fashion_rows)
    setting = Setting([256, 128], 0.0, 128, options.fashion_epochs, options.threads)
    bench = Bench(work, "fashion", setting, 1 / 7)
    sides = {
        "groundup": bench.groundup,
        "sklearn": lambda: bench.peer("sklearn_mlp.py", environment(*SKLEARN)),
        "lightning": lambda: bench.peer("lightning_table.py", environment(*LIGHTNING)),
    }
    found = medians(in_turn(sides, options.repeats))
    result: dict[str, Any] = {"sides": found}
    for peer in ("sklearn", "lightning"):
        for key in ("training_seconds", "process_seconds"):
            result[f"{key}_ratio_{peer}"] = round(found[peer][key] / found["groundup"][key], 3)
        result[f"accuracy_difference_{peer}"] = round(found["groundup"]["accuracy"] - found[peer]["accuracy"], 4)
    return result


RUNS = {"synthetic": run_synthetic, "fashion": run_fashion}


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'table':<11}{'side':<16}{'rows/s':>10}{'training s':>12}{'process s':>11}{'accuracy':>10}"]
    for name, of in results.items():
        for side, figures in of["sides"].items():
            cells = [
                f"{figures[key]:>{width},.{digits}f}" if key in figures else " " * width
                for key, width, digits in zip(FIGURES, (10, 12, 11, 10), (0, 2, 2, 4), strict=True)
            ]
            lines.append(f"{name:<11}{side:<16}{''.join(cells)}")
        lines += [f"{name:<11}{key:<32}{value:>10}" for key, value in of.items() if key != "sides"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--repeats", type=int, default=3, help="processes per side")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the synthetic table")
    parser.add_argument("--epochs", type=int, default=5, help="over the synthetic table")
    parser.add_argument("--fashion-rows", type=int, default=70_000, help="rows of Fashion-MNIST")
    parser.add_argument("--fashion-epochs", type=int, default=10, help="over Fashion-MNIST")
    options = parser.parse_args()
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures will be off", file=sys.stderr)
    if "fashion" in options.tables:
        for peer in (SKLEARN, LIGHTNING):
            environment(*peer)

    with tempfile.TemporaryDirectory(prefix="table-training-") as folder:
        results = {name: RUNS[name](Path(folder), options) for name in options.tables}
    print(table(results))
    machine = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    print(json.dumps({"machine": machine, "tables": results}))


if __name__ == "__main__":
    main()
