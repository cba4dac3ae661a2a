"""The step `train`: from prepared data to a trained model, taking up what a stopped run left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from groundup import heartbeat
from groundup.console import Bar, say, size, span
from groundup.errors import Interrupted
from groundup.lineage import lineage
from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler, product_dtype
from groundup.optim.schedules import build_schedule
from groundup.parallel.build import build_parallel
from groundup.plan.machine import measured_peak
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.parallel_checks import legal_layout
from groundup.recipe.quantities import Duration
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, fingerprint
from groundup.tasks.build import build_task
from groundup.train.checkpoint import go_back_to, patient_group, take_up
from groundup.train.device import peak_memory_mb, set_up
from groundup.train.fence import Fence
from groundup.train.guard import Guard
from groundup.train.hooks import Every, Log, Save
from groundup.train.identity import refuse_another
from groundup.train.judge import Judge
from groundup.train.loop import Hook, run_loop
from groundup.train.manifest import checkpoints_of
from groundup.train.metrics import Metrics, build_trackers
from groundup.train.planted import planted
from groundup.train.saver import Saver
from groundup.train.signals import StopRequest
from groundup.train.state import TrainState


def inputs(recipe: Recipe, data_fingerprint: str) -> str:
    """Fingerprint of all that the trained weights depend on."""
    train = recipe.train.model_dump(mode="json", exclude={"time_limit"})
    sections = [recipe.model.model_dump(), recipe.optim.model_dump(), train, recipe.guard.model_dump()]
    return fingerprint([sections, recipe.seed, data_fingerprint])


OnValidation = Callable[[TrainState, dict[str, float]], None]


def train(
    recipe: Recipe,
    run: RunDir,
    on_validation: OnValidation | None = None,
    *,
    allow: Collection[str] = (),
    began: float | None = None,
) -> dict[str, Any]:
    """Train to the recipe's duration. Raises Interrupted, with all saved, where a signal or the time limit asked to
    stop.

    `on_validation` is told each validation's metrics; what it raises ends the training. `allow`: what of the checkpoint
    to go on from may differ, see refuse_another. `began`: when the command was given, seconds since the epoch.
    """
    leads = not dist.is_initialized() or dist.get_rank() == 0
    with heartbeat.shown(run.heartbeat if leads else None):
        return _train(recipe, run, on_validation, allow, began or time.time())


def _train(
    recipe: Recipe, run: RunDir, on_validation: OnValidation | None, allow: Collection[str], began: float
) -> dict[str, Any]:
    device = set_up(recipe.train)
    task = planted(build_task(recipe, run))
    pace = recipe.pace(task.samples_per_epoch)

    def steps(duration: Duration | None, share: float) -> int:
        """A duration in steps; without one, that share of the run."""
        if duration is None:
            return max(1, round(total * share))
        return pace.steps(duration)

    total = pace.steps(recipe.train.duration)
    schedule = build_schedule(recipe.optim, total, pace)
    layout = legal_layout(recipe, dist.get_world_size() if dist.is_initialized() else 1)
    model = build_parallel(task, recipe, layout, device)
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    state = TrainState(model, optimizers, gradient_scaler(recipe.optim.precision, device))
    state.judge = Judge(recipe.guard.spike, recipe.guard.window, state.scaler.is_enabled(), device)
    checkpoints, fence = checkpoints_of(recipe, run), Fence(run.path / "fence")
    model.agree(fence.take)
    group = patient_group()
    found = take_up(checkpoints, group)
    if found is not None:
        for difference in refuse_another(found[1], task.identity, checkpoints.place(found[0]), allow):
            say(f"allowed to differ from the checkpoint: {difference}")
        state.load(checkpoints, *found, group)
        say(f"resuming at step {state.step} from {checkpoints.place(found[0])}")
        if recipe.train.deterministic and recipe.train.threads is None and found[1]["layout"] == layout.degrees:
            torch.set_num_threads(
                found[1].get("threads", torch.get_num_threads())
            )  # another number of threads adds in another order
    if recipe.train.deterministic:
        say(
            f"deterministic: kernels that repeat their bits, on {torch.get_num_threads()} threads as long as the "
            "layout stays; `python benchmarks/deterministic.py` measures what they cost"
        )
    state.facts = {
        "identity": task.identity,
        "layout": layout.degrees,
        "threads": torch.get_num_threads(),
        "lineage": lineage(LoadedRecipe(recipe, run.recipe_file, {})) if model.leads else None,
    }

    dtype = product_dtype(recipe.optim.precision, device)
    if recipe.optim.precision == "bf16" and dtype == torch.float32:
        say("this CPU has no bf16 instructions: matrix products run in fp32, most of what is between them is bf16")
    peak = measured_peak(device, dtype) * layout.world
    parameters = model.parameter_count()
    per_step = size(recipe.samples_per_step * task.units_per_sample)
    say(
        f"training {size(parameters)} parameters on {device} ({layout.name}, {torch.get_num_threads()} threads, "
        f"{str(dtype).removeprefix('torch.')}, peak {size(peak, 'FLOP/s')}): {total} steps of {per_step} {task.unit}, "
        f"{total / pace.steps_per_epoch:.2f} epochs"
    )
    trackers = list(recipe.train.trackers) if model.leads else []
    metrics = Metrics(
        run.metrics if model.leads else Path(os.devnull),
        build_trackers(trackers, run.path, recipe.model_dump(mode="json")),
        check=fence.check if model.leads else None,
    )
    if found is not None:
        metrics.write("resume", state.step, samples_consumed=state.samples)
    saver = Saver(checkpoints, recipe.checkpoint.keep_last, fence.check, group)
    limit = recipe.train.time_limit
    deadline = None if limit is None else began + limit.seconds
    with Bar("train", total, "steps") as bar, StopRequest(deadline) as stop:
        log = Log(metrics, bar, task, recipe.train.log_every, total, pace.samples(total), peak)
        keep_every = None if recipe.checkpoint.keep_every is None else pace.steps(recipe.checkpoint.keep_every)
        save = Save(saver, metrics, bar, recipe.checkpoint.asynchronous, keep_every, pace.samples(total))

        def validate(state: TrainState) -> None:
            found = task.validate(model, device)
            result = model.agree(lambda: found)  # to the last bit, since a save may hang on it
            metrics.write("validation", state.step, samples_consumed=state.samples, **result)
            bar.write(f"step {state.step}: validation {task.describe(result)}")
            if recipe.evaluate.checkpoint == "best" and state.improved(recipe.best_metric, result):
                save(state)
            if on_validation is not None:
                on_validation(state, result)

        def sample(state: TrainState) -> None:
            for text in task.sample(model.module, device):
                metrics.write("sample", state.step, **text)
                bar.write(f"step {state.step}: sample: {(text['prompt'] + text['text'])[:200]!r}")

        def go_back(state: TrainState) -> bool:
            save.wait(state)
            found = go_back_to(checkpoints, group)
            if found is None:
                return False
            seconds = state.seconds
            state.load(checkpoints, *found, group)
            state.seconds = seconds
            metrics.write("resume", state.step, samples_consumed=state.samples)
            log.begin(state)
            return True

        guard = Guard(task, recipe, device, metrics, save.finish, go_back, bar.write)
        hooks: list[Hook] = [
            log,
            Every(recipe.train.log_every, log, save.poll),
            Every(steps(recipe.train.validate_every, 0.1), log, validate),
            Every(steps(recipe.checkpoint.every, 0.1), log, save),
        ]
        # Token by token goes through whole models only, and every rank must choose the same tokens, so in a layout
        # texts are sampled by `evaluate`, from the checkpoint.
        if isinstance(recipe, LanguageRecipe) and layout.world == 1:
            hooks.append(Every(steps(recipe.train.sample_every, 0.25), log, sample))
        log.begin(state)
        try:
            run_loop(state, task, recipe, schedule, device, pace, pace.samples(total), hooks, guard, stop)
            save.finish(state)
        finally:
            metrics.close()
        if state.samples < pace.samples(total):
            place = checkpoints.place(state.step)
            raise Interrupted(f"stopped by {stop.asked or 'another rank'} at step {state.step}; saved in {place}")
    loss = "" if state.last_loss is None else f", loss {state.last_loss:.4f}"
    say(f"trained {state.step} steps in {span(state.seconds)}{loss}")
    return {
        "step": state.step,
        "samples_consumed": state.samples,
        "loss": state.last_loss,
        f"{task.unit}_per_second": round(log.units_per_second, 1),
        "peak_memory_mb": round(peak_memory_mb(device), 1),
        "training_seconds": round(state.seconds, 2),
        "parameters": parameters,
    }
