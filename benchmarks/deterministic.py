"""What `train.deterministic` costs, and whether it holds: `python benchmarks/deterministic.py [--steps N]`.

The decoder of training_speed.toml cut to two layers, in bf16, eager and compiled. Four processes stay up: without
deterministic kernels and with them, two of each. One works at a time, a step each in turn, so all are under the same
load. Each step takes the same samples in all of them, so their weights should agree to the bit where that is promised.
Prints a table, then one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import xxhash

from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.parity.tasks import made_up
from groundup.recipe.layout import Layout
from groundup.recipe.load import load
from groundup.train.device import set_up
from groundup.train.loop import train_step
from groundup.train.state import TrainState

RECIPE = Path(__file__).parent / "training_speed.toml"
SETTINGS = ('optim.precision="bf16"', "model.layers=2", "train.batch_tokens=2048", "train.micro_batch=4")
WARM_UP = 3  # steps of each that are not counted


class FixedRate:
    def lr(self, samples: int) -> float:
        return 3e-4


def serve(pipe: Connection, compiled: bool, deterministic: bool) -> None:
    """A step for each message: its seconds, and a hash of all weights after it."""
    words = (f"train.compile={str(compiled).lower()}", f"train.deterministic={str(deterministic).lower()}")
    recipe = load(RECIPE, (*SETTINGS, *words)).recipe
    device = set_up(recipe.train)
    task = made_up(recipe)
    model = build_parallel(task, recipe, Layout(), device)
    model.train()
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    state = TrainState(model, optimizers, gradient_scaler("bf16", device))
    while pipe.recv():
        begin = time.perf_counter()
        end = state.samples + recipe.samples_per_step
        float(train_step(state, end, task, recipe, FixedRate(), device).loss)
        state.samples = end
        seconds = time.perf_counter() - begin
        found = xxhash.xxh3_128()
        for _, parameter in sorted(model.named_parameters()):
            found.update(parameter.detach().reshape(-1).view(torch.uint8).numpy().data)
        pipe.send((seconds, found.hexdigest()))


def measure(compiled: bool, steps: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    sides = [False, True, False, True]  # whether deterministic
    pipes, processes = [], []
    for deterministic in sides:
        here, there = context.Pipe()
        processes.append(context.Process(target=serve, args=(there, compiled, deterministic), daemon=True))
        processes[-1].start()
        pipes.append(here)
    seconds: list[list[float]] = [[] for _ in sides]
    agree = {False: True, True: True}
    for step in range(WARM_UP + steps):
        hashes = []
        for number, pipe in enumerate(pipes):
            pipe.send(True)
            spent, digest = pipe.recv()
            hashes.append(digest)
            if step >= WARM_UP:
                seconds[number].append(spent)
        agree[False] &= hashes[0] == hashes[2]
        agree[True] &= hashes[1] == hashes[3]
    for pipe in pipes:
        pipe.send(False)
    usual, fixed = seconds[0] + seconds[2], seconds[1] + seconds[3]
    return {
        "steps": steps,
        "seconds": {"usual": statistics.median(usual), "deterministic": statistics.median(fixed)},
        # Of neighbours: a change of load between rounds is in both sides of each.
        "ratio": statistics.median(a / b for a, b in zip(usual, fixed, strict=True)),
        "same_bits": {"usual": agree[False], "deterministic": agree[True]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    document = {}
    print(f"{'kernels':<10}{'s usual':>10}{'s determ.':>11}{'speed':>8}  same bits: usual, deterministic")
    for name, compiled in (("eager", False), ("compiled", True)):
        row = document[name] = measure(compiled, arguments.steps)
        spent, same = row["seconds"], row["same_bits"]
        print(
            f"{name:<10}{spent['usual']:>10.3f}{spent['deterministic']:>11.3f}{row['ratio']:>8.3f}"
            f"  {same['usual']}, {same['deterministic']}",
            flush=True,
        )
    print(json.dumps(document))


if __name__ == "__main__":
    main()
