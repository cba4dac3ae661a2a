"""One trial: a run folder of its own below the search's, trained by the loop that trains everything."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from groundup import course
from groundup.console import into_file
from groundup.errors import BadStep, Interrupted, UserError
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir
from groundup.train.state import TrainState
from groundup.train.train import train
from groundup.tune.space import ImpossibleValues, candidate

if TYPE_CHECKING:
    from optuna import Trial

MOST_BEGINNINGS = 3  # a trial in which the process died so many times is given up


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `value`: of its best validation; None where it had none."""

    state: Literal["complete", "pruned", "failed"]
    value: float | None
    reason: str = ""


class Pruned(Exception):
    """The trial is not worth going on with."""


class Watch:
    """Takes each validation of a trial: reports it, and ends the trial where others did better.

    Validations are compared by their number within the trial, since a step may mean another portion of the data in
    another trial.
    """

    def __init__(self, trial: Trial, metric: str, direction: str, show: Callable[[str], None]) -> None:
        self.trial, self.metric, self.show = trial, metric, show
        self.choose = min if direction == "minimize" else max
        self.steps: list[int] = trial.user_attrs.get("steps", [])
        reported = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self.values: list[float] = [reported[n] for n in range(len(self.steps))]

    @property
    def best(self) -> float | None:
        return self.choose(self.values) if self.values else None

    def __call__(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Raises Pruned."""
        value = float(metrics[self.metric])
        self.show(f"trial {self.trial.number}: step {state.step}, {self.metric} {value:.4f}")
        if state.step in self.steps:
            return  # trained again since the checkpoint before it
        if not math.isfinite(value):
            raise Pruned(f"the validation's {self.metric} is {value} at step {state.step}")
        self.trial.report(value, len(self.values))
        self.steps.append(state.step)
        self.values.append(value)
        self.trial.set_user_attr("steps", self.steps)
        if self.trial.should_prune():
            raise Pruned(f"behind the median of the trials before it at step {state.step}")


def folder_of(run: RunDir, number: int) -> RunDir:
    return RunDir(run.path / "trials" / f"{number:04d}")


def own_data(recipe: Recipe) -> bool:
    """Whether what is searched changes the prepared data, so that each trial must prepare its own."""
    return any(key == "seed" or key.startswith(("data.", "tokenizer.")) for key in recipe.tune.search)


def _set_up(loaded: LoadedRecipe, run: RunDir, trial: RunDir) -> None:
    """The trial's folder; its data is the search's."""
    if not trial.recipe_file.exists():
        shutil.rmtree(trial.path, ignore_errors=True)  # a kill left it half made
    trial.open(loaded)
    if own_data(loaded.recipe) or trial.data.is_symlink():
        return
    record = run.record("prepare")
    if record is not None:
        trial.finish("prepare", record.fingerprint, record.seconds, record.result)
    trial.data.symlink_to(os.path.join("..", "..", run.data.name))


def run_trial(loaded: LoadedRecipe, run: RunDir, trial: Trial, given: dict[str, Any], watch: Watch) -> Outcome:
    """Train with the values given, from the trial's checkpoint where it has one. Raises Interrupted."""
    begun = trial.user_attrs.get("begun", 0)
    if begun >= MOST_BEGINNINGS:
        return Outcome("failed", watch.best, f"the process died in it {begun} times")
    trial.set_user_attr("begun", begun + 1)
    before, start = trial.user_attrs.get("seconds", 0.0), time.monotonic()
    try:
        return _attempt(loaded, run, trial.number, given, watch)
    except Interrupted as error:
        trial.set_user_attr("begun", begun)
        raise Interrupted(f"trial {trial.number}: {error}; the same command goes on with it") from None
    finally:
        trial.set_user_attr("seconds", round(before + time.monotonic() - start, 3))


def _attempt(loaded: LoadedRecipe, run: RunDir, number: int, given: dict[str, Any], watch: Watch) -> Outcome:
    try:
        recipe = candidate(loaded.recipe, given)
    except ImpossibleValues as error:
        return Outcome("pruned", None, f"impossible: {error}")
    # Trials' checkpoints stay in their own folders: few outlive the search.
    own = recipe.checkpoint.model_copy(update={"place": None})
    recipe = recipe.model_copy(update={"name": f"{recipe.name}-{number:04d}", "checkpoint": own})
    origins = loaded.origins | {tuple(key.split(".")): f"trial {number}" for key in given}
    made, folder = LoadedRecipe(recipe, loaded.file, origins), folder_of(run, number)
    try:
        _set_up(made, run, folder)
        with folder.lock(), into_file(folder.path / "log.txt"):
            if own_data(recipe):
                course.prepare(made, folder)
            train(recipe, folder, watch)
    except Pruned as error:
        return Outcome("pruned", watch.best, str(error))
    except BadStep as error:
        return Outcome("pruned", watch.best, f"diverged: {error}")
    except UserError as error:
        return Outcome("pruned", watch.best, str(error))
    except torch.OutOfMemoryError:
        return Outcome("pruned", watch.best, "out of the GPU's memory")
    return Outcome("complete", watch.best)
