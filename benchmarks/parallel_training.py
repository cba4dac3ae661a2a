"""Training on several processes of this machine beside training on one: speed, the share of it that is communication,
and bytes of state per process. And what the code for layouts costs a single process, beside a bare loop.

The shape of training_speed.toml in fp32 on made-up text. One process with two threads, then layouts of one thread per
process, in turn in each round. Prints a table, then one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from groundup.optim.gradients import clip_
from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.build import build_parallel
from groundup.parallel.model import local
from groundup.parity.pool import Pool
from groundup.parity.tasks import MadeUpText
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.layout import Layout
from groundup.recipe.load import load
from groundup.train.device import keep_freed_memory
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

RECIPE = Path(__file__).parent / "training_speed.toml"
CPU = torch.device("cpu")
LAYOUTS = {
    "one process": Layout(),
    "replicate 2": Layout(replicate=2),
    "shard 2": Layout(shard=2),
    "tensor 2": Layout(tensor=2),
    "shard 4": Layout(shard=4),
}


def recipe_of(layout: Layout) -> LanguageRecipe:
    settings = [f"parallel.{name}={degree}" for name, degree in layout.degrees.items()]
    recipe = load(RECIPE, ('optim.precision="fp32"', *settings)).recipe
    assert isinstance(recipe, LanguageRecipe)
    return recipe


def measure(degrees: dict[str, int], threads: int, steps: int) -> dict[str, Any]:
    """Train in the processes that are there. Seconds of each step, the first two left out."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    layout = Layout(**degrees)
    recipe = recipe_of(layout)
    task = MadeUpText(recipe)
    model = build_parallel(task, recipe, layout, CPU)
    model.train()
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    state = TrainState(model, optimizers, gradient_scaler("fp32", CPU))

    gradient_bytes = 0

    def step() -> float:
        nonlocal gradient_bytes
        begin = time.perf_counter()
        end = state.samples + recipe.samples_per_step
        loss, norm = compute_gradients(state, end, task, recipe, CPU)
        gradient_bytes = _bytes(p.grad for _, p in model.named_parameters() if p.grad is not None)
        update(state, norm, recipe, recipe.optim.lr, task)
        state.samples = end
        float(loss)
        return time.perf_counter() - begin

    seconds = [step() for _ in range(steps + 2)][2:]
    held = [t for _, p in model.named_parameters() for t in (p, *_moments(state, p))]
    found = {
        "seconds": seconds,
        "state_bytes": _bytes(held) + gradient_bytes,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "communication": 0.0,
    }
    if dist.is_initialized() and dist.get_world_size() > 1:
        with profile(activities=[ProfilerActivity.CPU]) as trace:
            whole = step()
        waits = [e for e in trace.key_averages() if e.key.startswith("gloo:")]
        found["communication"] = sum(e.cpu_time_total for e in waits) / 1e6 / whole
    return found


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Of what this rank holds of them."""
    return sum(local(t).numel() * t.element_size() for t in tensors)


def _moments(state: TrainState, parameter: Any) -> list[torch.Tensor]:
    return [
        value
        for optimizer in state.optimizers
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, torch.Tensor) and value.ndim
    ]


def overhead(steps: int) -> dict[str, Any]:
    """Seconds per step of the layouts' code on one process and of a bare loop over the same model, in turn."""
    torch.set_num_threads(2)
    keep_freed_memory()
    recipe = recipe_of(Layout())
    task = MadeUpText(recipe)

    def ours() -> Callable[[int], None]:
        model = build_parallel(task, recipe, Layout(), CPU)
        model.train()
        optimizers = build_optimizers(model.named_parameters(), recipe.optim)
        state = TrainState(model, optimizers, gradient_scaler("fp32", CPU))

        def step(start: int) -> None:
            state.samples = start
            _, norm = compute_gradients(state, start + recipe.samples_per_step, task, recipe, CPU)
            update(state, norm, recipe, recipe.optim.lr, task)

        return step

    def bare() -> Callable[[int], None]:
        model = task.build(CPU).train()
        (optimizer,) = build_optimizers(model.named_parameters(), recipe.optim)
        parameters = list(model.parameters())

        def step(start: int) -> None:
            batch = task.batch(start, start + recipe.samples_per_step)
            for at in range(0, len(batch), recipe.train.micro_batch):
                part = batch.rows(at, at + recipe.train.micro_batch)
                loss, _ = task.loss(model, model(part.tokens_BL, documents_BL=part.documents_BL), part)
                (loss / batch.counted).backward()
            grads = [p.grad for p in parameters if p.grad is not None]
            clip_(grads, torch.stack(torch._foreach_norm(grads)).norm(), recipe.optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad()

        return step

    sides = {"layouts": ours(), "bare": bare()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(steps + 1):
        for name, side in sides.items():
            begin = time.perf_counter()
            side(number * recipe.samples_per_step)
            seconds[name].append(time.perf_counter() - begin)
    return {name: found[1:] for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="times each layout is measured")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each")
    arguments = parser.parse_args()
    tokens = recipe_of(Layout()).train.batch_tokens
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in LAYOUTS}
    for _ in range(arguments.rounds):
        for name, layout in LAYOUTS.items():
            with Pool(layout.world, hanging=600.0) as pool:
                work = (layout.degrees, 2 if layout.world == 1 else 1, arguments.steps)
                runs[name].append(pool.run(layout.world, measure, *work)[0])
    with Pool(1, hanging=600.0) as pool:
        cost = pool.run(1, overhead, arguments.steps)[0]
    best = {name: min(s for run in of for s in run["seconds"]) for name, of in runs.items()}
    document: dict[str, Any] = {"overhead": min(cost["layouts"]) / min(cost["bare"]), "layouts": {}}
    print(f"{'layout':<14}{'tokens/s':>10}{'of one process':>16}{'communication':>15}{'state':>8}{'peak MB':>9}")
    single = runs["one process"][0]
    for name, of in runs.items():
        figures = {
            "tokens_per_second": tokens / best[name],
            "speed_ratio": best["one process"] / best[name],
            "communication": statistics.median(run["communication"] for run in of),
            "state_ratio": of[0]["state_bytes"] / single["state_bytes"],
            "peak_mb": of[0]["peak_mb"],
        }
        document["layouts"][name] = figures
        print(
            f"{name:<14}{figures['tokens_per_second']:>10,.0f}{figures['speed_ratio']:>16.2f}"
            f"{figures['communication']:>15.0%}{figures['state_ratio']:>8.2f}{figures['peak_mb']:>9,.0f}"
        )
    print(f"one process, beside a bare loop: {document['overhead']:.3f} of its time per step")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
