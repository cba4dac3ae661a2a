"""What judging steps costs: seconds per step with and without, in turn within one run of each layout.

Two layers of the decoder of training_speed.toml in fp32 with small batches, and the perceptron of
examples/digits.toml, whose steps take about two milliseconds, on made-up samples. Steps with the judge and without
take turns on one model, in random order within each pair, so both sides are under the same load. As in a run on a
CPU, the host reads each verdict. One process, then two; of those also what a collective costs that makes one number
equal over ranks, and one of two numbers: loss and norm ride on the collective that the norm needs anyway. One
thread per process. Prints a table, then one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.parity.pool import Pool
from groundup.parity.tasks import made_up
from groundup.recipe.layout import Layout
from groundup.recipe.load import load
from groundup.train.device import keep_freed_memory
from groundup.train.judge import Judge
from groundup.train.loop import train_step
from groundup.train.state import TrainState

HERE = Path(__file__).parent
DECODER = (str(HERE / "training_speed.toml"), "model.layers=2", "train.batch_tokens=1024", "train.micro_batch=1")
PERCEPTRON = (str(HERE.parent / "examples" / "digits.toml"),)
CPU = torch.device("cpu")
SPIKE = 6.0
# What is trained, how it is spread, and what a spike is.
CASES: dict[str, tuple[tuple[str, ...], Layout, float | None]] = {
    "perceptron": (PERCEPTRON, Layout(), None),
    "perceptron, spikes": (PERCEPTRON, Layout(), SPIKE),
    "decoder": (DECODER, Layout(), None),
    "decoder, spikes": (DECODER, Layout(), SPIKE),
    "decoder, spikes, replicate 2": (DECODER, Layout(replicate=2), SPIKE),
    "decoder, spikes, shard 2": (DECODER, Layout(shard=2), SPIKE),
}


class FixedRate:
    def lr(self, samples: int) -> float:
        return 3e-4


def measure(what: tuple[str, ...], degrees: dict[str, int], spike: float | None, seconds: float) -> dict[str, Any]:
    """Seconds of steps with the judge and without, pair by pair, for so many seconds; the first pair is left out."""
    torch.set_num_threads(1)
    keep_freed_memory()
    layout = Layout(**degrees)
    words = [f"parallel.{name}={degree}" for name, degree in layout.degrees.items()]
    recipe = load(Path(what[0]), ('optim.precision="fp32"', *what[1:], *words)).recipe
    task = made_up(recipe)
    model = build_parallel(task, recipe, layout, CPU)
    model.train()
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    state = TrainState(model, optimizers, gradient_scaler("fp32", CPU))
    judge = Judge(spike, 128, False, CPU)
    order = random.Random(0)  # the same on all ranks

    def step(judged: bool) -> float:
        begin = time.perf_counter()
        state.judge = judge if judged else None
        end = state.samples + recipe.samples_per_step
        result = train_step(state, end, task, recipe, FixedRate(), CPU)
        state.samples = end
        if judged:
            assert len(judge.read()) == 1
        else:
            float(result.loss)
        return time.perf_counter() - begin

    sides: dict[bool, list[float]] = {True: [], False: []}
    begin = time.monotonic()
    while state.model.agree(lambda: time.monotonic() - begin < seconds) or len(sides[True]) < 3:
        pair = [True, False]
        order.shuffle(pair)
        for judged in pair:
            sides[judged].append(step(judged))
    found = {
        "pairs": len(sides[True]) - 1,
        "seconds": {"with": statistics.median(sides[True][1:]), "without": statistics.median(sides[False][1:])},
        # Of pairs: a change of load between pairs is in both sides of each.
        "ratio": statistics.median(b / a for a, b in zip(sides[True][1:], sides[False][1:], strict=True)),
        "judge_us": 1e6 * _each(partial(judge.judge, torch.ones(()), torch.ones(()), 0, 0, 1), 200),
    }
    if dist.is_initialized() and dist.get_world_size() > 1:
        for size in (1, 2):
            found[f"all_reduce_of_{size}_us"] = 1e6 * _each(partial(dist.all_reduce, torch.zeros(size)), 200)
    return found


def _each(call: Callable[[], object], times: int) -> float:
    """Median seconds of a call."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="how long each case is measured")
    arguments = parser.parse_args()
    document = {}
    print(f"{'case':<30}{'pairs':>7}{'ms with':>9}{'ms without':>12}{'ratio':>8}{'judge us':>10}")
    for name, (what, layout, spike) in CASES.items():
        with Pool(layout.world, hanging=600.0) as pool:
            work = (what, layout.degrees, spike, arguments.seconds)
            row = document[name] = pool.run(layout.world, measure, *work)[0]
        print(
            f"{name:<30}{row['pairs']:>7}{1e3 * row['seconds']['with']:>9.3f}{1e3 * row['seconds']['without']:>12.3f}"
            f"{row['ratio']:>8.4f}{row['judge_us']:>10.0f}",
            flush=True,
        )
    print(json.dumps(document))


if __name__ == "__main__":
    main()
