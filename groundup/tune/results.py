"""What a search leaves in the run folder: `tune.json`, `best.toml`, and the best trial's checkpoints."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

from groundup.recipe.sections import Recipe
from groundup.recipe.show import to_toml
from groundup.rundir import RunDir, write_atomically
from groundup.tune.space import assigned, decoded
from groundup.tune.trial import folder_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ENOUGH_FOR_IMPORTANCE = 4  # complete trials
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def best_of(study: Study) -> FrozenTrial | None:
    """The complete trial of the best value; the earlier of two that are equal."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if not complete:
        return None
    sign = 1.0 if study.direction.name == "MINIMIZE" else -1.0
    return min(complete, key=lambda t: sign * (math.inf if t.value is None else t.value))


def importance(study: Study) -> dict[str, float]:
    """Share of each key in what sets good trials apart, by PED-ANOVA (https://arxiv.org/abs/2304.10255), largest
    first; empty where too few trials are complete to tell."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if sum(t.state.name == "COMPLETE" for t in study.get_trials(deepcopy=False)) < ENOUGH_FOR_IMPORTANCE:
        return {}
    shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return shares if all(math.isfinite(share) for share in shares.values()) else {}


def _trial(trial: FrozenTrial, recipe: Recipe, minimize: bool) -> dict[str, Any]:
    validations = [trial.intermediate_values[n] for n in sorted(trial.intermediate_values)]
    best = (min if minimize else max)(validations) if validations else None
    steps = trial.user_attrs.get("steps", [])
    return {
        "number": trial.number,
        "state": _STATES[trial.state.name],
        "values": decoded(recipe.tune.search, trial.params),
        "value": best,
        "seconds": trial.user_attrs.get("seconds", 0.0),
        "steps": [[step, value] for step, value in zip(steps, validations, strict=False)],
        "reason": trial.user_attrs.get("reason", ""),
    }


def document(study: Study, recipe: Recipe, metric: str, range_test: dict[str, Any] | None) -> dict[str, Any]:
    """The search so far, as JSON."""
    best, minimize = best_of(study), study.direction.name == "MINIMIZE"
    begun = [t for t in study.get_trials(deepcopy=False) if t.state.name in _STATES]
    return {
        "metric": metric,
        "direction": study.direction.name.lower(),
        "best": None if best is None else decoded(recipe.tune.search, best.params),
        "best_value": None if best is None else best.value,
        "best_trial": None if best is None else best.number,
        "trials": [_trial(t, recipe, minimize) for t in begun],
        "importance": importance(study),
        "range_test": range_test,
    }


def write(run: RunDir, study: Study, recipe: Recipe, metric: str, range_test: dict[str, Any] | None) -> dict[str, Any]:
    """Write `tune.json` and `best.toml`, and remove the checkpoints of every finished trial but the best."""
    result = document(study, recipe, metric, range_test)
    write_atomically(run.path / "tune.json", json.dumps(result, indent=1))
    if result["best"] is not None:
        best = assigned(recipe, {**result["best"], "name": f"{recipe.name}-best"})
        write_atomically(run.path / "best.toml", to_toml(best))
    for trial in result["trials"]:
        if trial["state"] != "running" and trial["number"] != result["best_trial"]:
            shutil.rmtree(folder_of(run, trial["number"]).checkpoints, ignore_errors=True)
    return result
