"""The step `tune`: a range test, then trials until there are as many as asked for, those of earlier calls included."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from groundup.console import Bar, say, span
from groundup.errors import UserError
from groundup.recipe.load import LoadedRecipe
from groundup.recipe.sections import Recipe
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir, fingerprint, read_json
from groundup.train.signals import leave_if_asked
from groundup.tune import results, space
from groundup.tune.range_test import range_test
from groundup.tune.study import Direction, base_of, finished, next_trial, open_study, propose, silence_optuna
from groundup.tune.trial import Outcome, Watch, run_trial

# Validation metrics that can decide, and what is better.
METRICS: dict[str, dict[str, Direction]] = {
    "language-model": dict.fromkeys(("loss", "perplexity", "bits_per_byte"), "minimize"),
    "classification": {"loss": "minimize", **dict.fromkeys(("accuracy", "f1_weighted", "f1_macro"), "maximize")},
}


def tune(loaded: LoadedRecipe, run: RunDir, trials: int | None = None) -> dict[str, Any]:
    """Search over the recipe's `tune.search` in a run folder with prepared data, whose lock the caller holds.

    Goes on where an earlier call stopped. Writes `tune/range_test.json`, `trials/NNNN/`, `tune.json` and `best.toml`;
    returns the content of `tune.json` and the path of the best recipe. Raises UserError where nothing can be searched
    or no trial finished, and Interrupted, with all saved, where a signal asks to stop.
    """
    recipe = loaded.recipe
    space.check(recipe)
    metric, direction = _metric(recipe)
    silence_optuna()
    data = read_json(run.data / "manifest.json")["fingerprint"]
    study = open_study(run, recipe, data, metric, direction)
    found = None
    if recipe.tune.range_test:
        found = range_test(recipe, run, fingerprint(base_of(recipe, data)))
        suggestion = found["suggestion"]
        say("range test: " + (f"learning rate {suggestion:.2g}" if suggestion else "the loss fell at no learning rate"))
    propose(study, recipe, None if found is None else found["suggestion"])
    total = trials or recipe.tune.trials
    result = results.write(run, study, recipe, metric, found)
    done = len(finished(study))
    if done:
        say(f"going on after {done} trials; {_best_so_far(result)}".removesuffix("; "))
    with Bar("tune", max(0, total - done), "trials") as bar:
        while len(finished(study)) < total:
            trial = next_trial(study, recipe)
            given = space.suggest(trial, recipe.tune.search)
            watch = Watch(trial, metric, direction, lambda note: bar.advance(0, note))
            outcome = run_trial(loaded, run, trial, given, watch)
            trial.set_user_attr("reason", outcome.reason)
            study.tell(trial, *_told(outcome))
            torch.cuda.empty_cache()
            result = results.write(run, study, recipe, metric, found)
            bar.write(_line(result["trials"][trial.number], metric))
            bar.advance(1, _best_so_far(result))
            leave_if_asked()
    if result["best"] is None:
        reasons = Counter(t["reason"] for t in result["trials"]).most_common(3)
        raise UserError(
            f"none of the {len(result['trials'])} trials came to its end: "
            + "; ".join(f"{reason} ({count})" for reason, count in reasons),
            where=str(run.path / "tune.json"),
            advice="Change the ranges in tune.search",
        )
    return {**result, "recipe": str(run.path / "best.toml")}


def _metric(recipe: Recipe) -> tuple[str, Direction]:
    """(validation metric, direction)."""
    known, metric = METRICS[recipe.task], recipe.tune.metric or "loss"
    if metric not in known:
        what = f"there is no validation metric {metric!r}"
        raise UserError(what, where="tune.metric", expected="one of " + ", ".join(known))
    if isinstance(recipe, TableRecipe) and recipe.data.validation_fraction == 0:
        raise UserError(
            "without validation rows trials can't be compared",
            where="data.validation_fraction",
            expected="a fraction above 0",
        )
    return metric, known[metric]


def _told(outcome: Outcome) -> tuple[float | None, Any]:
    """(value, state) for Optuna, which takes a pruned trial's value from its reports."""
    from optuna.trial import TrialState

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    return outcome.value if outcome.state == "complete" else None, states[outcome.state]


def _best_so_far(result: dict[str, Any]) -> str:
    if result["best"] is None:
        return ""
    return f"best: {result['metric']} {result['best_value']:.4f} (trial {result['best_trial']})"


def _line(trial: dict[str, Any], metric: str) -> str:
    values = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial["values"].items())
    score = "" if trial["value"] is None else f"{metric} {trial['value']:.4f}  "
    state = "" if trial["state"] == "complete" else f"  {trial['state']}: {trial['reason']}"
    return f"trial {trial['number']}: {score}{span(trial['seconds'])}  {values}{state}"
