"""Training speed and peak memory: Groundup beside transformers' Trainer and litgpt in a Fabric loop.

The same shape, hyperparameters, token ids and torch for all; each side in a process of its own, the sides in
turn within each repeat. The speed is that of the median step, warm-up and compilation left out. Run it with
Groundup's interpreter on an idle machine. Prints a table, then one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing heavy may be imported here: Linux counts the memory of the process that starts a program into that
# program's peak.
from environments import BENCHMARKS, LITGPT, TRANSFORMERS, environment

RECIPE = BENCHMARKS / "training_speed.toml"
PEERS = {"transformers": ("transformers_trainer.py", TRANSFORMERS), "litgpt": ("litgpt_fabric.py", LITGPT)}
TOKENS_PER_STEP = 8192
PRECISIONS, MODES = ("fp32", "bf16"), ("eager", "compiled")


@dataclass(frozen=True)
class Mode:
    precision: str
    compiled: bool
    steps: int
    warmup: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.precision} {'compiled' if self.compiled else 'eager'}"


def last_json(command: list[str], log: Path) -> dict[str, Any]:
    """Run a command and read its last line of output as JSON. Exits with the log's end if it fails."""
    with log.open("w") as errors:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexited with {result.returncode}:\n{log.read_text()[-3000:]}")
    # Groundup's --json may spread its document over lines; a peer may print lines before its own.
    found: dict[str, Any]
    try:
        found = json.loads(result.stdout)
    except json.JSONDecodeError:
        found = json.loads(result.stdout.splitlines()[-1])
    return found


def run_peer(name: str, mode: Mode, tokens: Path | None, work: Path) -> dict[str, Any]:
    script, (env, requirements) = PEERS[name]
    command = [str(environment(env, requirements)), str(BENCHMARKS / "peers" / script)]
    command += ["--precision", mode.precision, "--steps", str(mode.steps), "--warmup", str(mode.warmup)]
    command += ["--threads", str(mode.threads)]
    command += ["--compile"] if mode.compiled else []
    command += ["--tokens", str(tokens)] if tokens else []
    return last_json(command, work / "stderr.log")


def groundup(verb: str, run: Path, work: Path, *settings: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "groundup", verb, str(RECIPE), "--run-dir", str(run), "--json"]
    for setting in settings:
        command += ["--set", setting]
    return last_json(command, work / "stderr.log")


def run_groundup(prepared: Path, mode: Mode, work: Path) -> dict[str, Any]:
    """Train in a fresh copy of the prepared run folder, and time its steps as the peers' are timed."""
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(prepared, run)
    settings = [
        f'optim.precision="{mode.precision}"',
        f"train.compile={str(mode.compiled).lower()}",
        f'train.duration="{mode.warmup + mode.steps} steps"',
        f"train.threads={mode.threads}",
    ]
    result = groundup("train", run, work, *settings)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line["kind"] == "train"]
    stamps = [row["seconds"] for row in rows]
    seconds = [b - a for a, b in itertools.pairwise(stamps)][mode.warmup - 1 :]
    return {
        "tokens_per_second": round(TOKENS_PER_STEP / statistics.median(seconds), 1),
        "peak_memory_mb": result["peak_memory_mb"],
        "steps": len(seconds),
        "seconds_per_step": [round(s, 4) for s in seconds],
        "loss_first": rows[0]["loss"],
        "loss_last": rows[-1]["loss"],
        "reported_tokens_per_second": result["tokens_per_second"],
    }


def token_file(prepared: Path) -> Path:
    """The training part's token ids, as the peers read them."""
    (file,) = sorted((prepared / "data" / "tokens").glob("train-*.bin"))
    return file


def median(runs: list[dict[str, Any]], key: str) -> float:
    return round(float(statistics.median(run[key] for run in runs)), 1)


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the repeats, and Groundup against the best peer in speed and in memory."""
    sides: dict[str, dict[str, Any]] = {
        side: {key: median(of, key) for key in ("tokens_per_second", "peak_memory_mb")} | {"runs": of}
        for side, of in runs.items()
    }
    found: dict[str, Any] = {"sides": sides}
    peers = [sides[name] for name in PEERS if name in sides]
    if peers and "groundup" in sides:
        fastest = max(peer["tokens_per_second"] for peer in peers)
        leanest = min(peer["peak_memory_mb"] for peer in peers)
        found["speed_ratio"] = round(sides["groundup"]["tokens_per_second"] / fastest, 3)
        found["memory_ratio"] = round(sides["groundup"]["peak_memory_mb"] / leanest, 3)
    return found


def speed_beside_fp32(modes: dict[str, dict[str, Any]], kind: str) -> float | None:
    """Groundup's speed in bf16 to the faster peer's in fp32; None where one of them did not run."""
    ours = modes.get(f"bf16 {kind}", {}).get("sides", {}).get("groundup")
    theirs = [side for name, side in modes.get(f"fp32 {kind}", {}).get("sides", {}).items() if name in PEERS]
    if ours is None or not theirs:
        return None
    fastest: float = max(side["tokens_per_second"] for side in theirs)
    return round(float(ours["tokens_per_second"]) / fastest, 3)


def table(modes: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'mode':<15}{'side':<14}{'tokens/s':>10}{'peak MB':>10}"]
    for name, of in modes.items():
        for side, figures in of["sides"].items():
            speed, memory = figures["tokens_per_second"], figures["peak_memory_mb"]
            lines.append(f"{name:<15}{side:<14}{speed:>10,.0f}{memory:>10,.0f}")
        if "speed_ratio" in of:
            lines.append(f"{name:<15}{'ratio':<14}{of['speed_ratio']:>10.2f}{of['memory_ratio']:>10.2f}")
    return "\n".join(lines)


def machine(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The machine, and what torch says of its CPU as a peer saw it, for torch is not imported here."""
    found = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    runs = [run for of in results.values() for side in of["sides"].values() for run in side["runs"]]
    seen: dict[str, Any] = next((run for run in runs if "cpu_capability" in run), {})
    return found | {key: seen[key] for key in ("torch", "cpu_capability", "mkldnn_bf16") if key in seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2, help="processes per side and mode")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--sides", nargs="+", choices=["groundup", *PEERS], default=["groundup", *PEERS])
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--bf16-steps", type=int, default=3, help="the same in bf16: slow on most CPUs")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones, at least 2")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    options = parser.parse_args()
    if options.warmup < 2:
        parser.error("--warmup must be at least 2")
    if os.getloadavg()[0] > 0.5:
        print(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures will be off", file=sys.stderr)
    for name in PEERS:
        if name in options.sides:
            environment(*PEERS[name][1])

    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="training-speed-") as folder:
        work, prepared, tokens = Path(folder), Path(folder) / "prepared", None
        if "groundup" in options.sides:
            groundup("prepare", prepared, work)
            tokens = token_file(prepared)
        for precision in options.precisions:
            for kind in options.modes:
                steps = options.bf16_steps if precision == "bf16" else options.steps
                mode = Mode(precision, kind == "compiled", steps, options.warmup, options.threads)
                runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
                for repeat in range(options.repeats):
                    for side in options.sides:
                        if side == "groundup":
                            run = run_groundup(prepared, mode, work)
                        else:
                            run = run_peer(side, mode, tokens, work)
                        runs[side].append(run | {"load_average": round(os.getloadavg()[0], 2)})
                        speed = f"{run['tokens_per_second']} tokens/s"
                        print(f"{mode.name}, repeat {repeat + 1}, {side}: {speed}", file=sys.stderr)
                results[mode.name] = summary(runs)

    print(table(results))
    facts = machine(results)
    if facts.get("mkldnn_bf16") is False and "bf16" in options.precisions:
        print(
            "This CPU has no bf16 instructions: torch emulates the peers' products in bf16, and Groundup multiplies\n"
            "in fp32 what it keeps in bf16. Its speed in bf16 says more beside the peers' in fp32:"
        )
        for kind in options.modes:
            beside = speed_beside_fp32(results, kind)
            print(f"{kind:<15}{'ratio':<14}{'not measured' if beside is None else beside:>10}")
    ids = "random" if tokens is None else "shared"
    print(json.dumps({"machine": facts, "tokens": ids, "modes": results}))


if __name__ == "__main__":
    main()
