"""Optuna's study in the run folder: a journal file that a later call takes up again.

The run's lock is held by whoever opens it, so the journal has one writer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from groundup.errors import UserError
from groundup.recipe.sections import Recipe
from groundup.recipe.show import values
from groundup.rundir import RunDir, fingerprint
from groundup.tune.space import current, encoded

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

# A trial is not compared with others at its first validations, nor before so many trials are complete.
UNCOMPARED_VALIDATIONS, UNCOMPARED_TRIALS = 2, 4
RANDOM_TRIALS = 5  # before the sampler has seen enough to choose by
_BASE = "base"

Direction = Literal["minimize", "maximize"]


def silence_optuna() -> None:
    """Of its log; what happens to trials is told in words of our own."""
    import optuna

    optuna.logging.disable_default_handler()


def base_of(recipe: Recipe, data: str) -> dict[str, Any]:
    """All that a trial's outcome depends on, beside the trial's values."""
    document = values(recipe)
    for section in ("name", "serve", "export"):
        document.pop(section, None)
    for key in ("trials", "range_test"):
        document["tune"].pop(key, None)
    return {**document, "prepared data": data}


def open_study(run: RunDir, recipe: Recipe, data: str, metric: str, direction: Direction) -> Study:
    """The study of this recipe, made if need be. `data`: fingerprint of the prepared data.

    Raises UserError with what differs where the folder holds the study of another recipe or of other data.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = run.path / "tune" / "study.journal"
    path.parent.mkdir(exist_ok=True)
    for stale in path.parent.glob(f"{path.name}.lock*"):
        stale.unlink()  # of a process that was killed
    if path.exists():
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(whole.rfind(b"\n") + 1)  # a kill tears the last line
    elif (run.path / "trials").exists():
        old = run.path / "superseded" / time.strftime("%Y%m%d-%H%M%S")
        old.mkdir(parents=True, exist_ok=True)
        (run.path / "trials").rename(old / "trials")
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name="tune",
        direction=direction,
        pruner=optuna.pruners.MedianPruner(UNCOMPARED_TRIALS, UNCOMPARED_VALIDATIONS),
        load_if_exists=True,
    )
    base = {**base_of(recipe, data), "metric": metric}
    found = study.user_attrs.get(_BASE)
    if found is None:
        study.set_user_attr(_BASE, base)
    elif found != base:
        raise UserError(
            "the search here is of another recipe: " + "; ".join(_differences(found, base)),
            where=str(path),
            advice="Undo the change, give another --run-dir, or delete this file to search anew (the trials so far "
            "are then moved to superseded/)",
        )
    return study


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        return [d for n in names for d in _differences(old.get(n), new.get(n), f"{key}.{n}" if key else n)]
    return [] if old == new else [f"{key} was {old}, is {new}"]


def propose(study: Study, recipe: Recipe, suggestion: float | None) -> None:
    """Queue the trials that a new search begins with: the recipe's own values, and those with the learning rate that
    the range test suggests. A value outside of its range is left to the sampler."""
    if study.get_trials(deepcopy=False):
        return
    search = recipe.tune.search
    own = current(recipe)
    study.enqueue_trial(encoded(search, own))
    if suggestion is not None and encoded(search, {"optim.lr": suggestion} if "optim.lr" in search else {}):
        study.enqueue_trial(encoded(search, {**own, "optim.lr": suggestion}))


def _seed(study: Study, recipe: Recipe, number: int) -> None:
    """A sampler of this trial's own, so that a search that was stopped chooses as one that was not."""
    from optuna.samplers import TPESampler

    seed = int(fingerprint([recipe.seed, number]), 16) % 2**32
    study.sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)


def finished(study: Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]


def next_trial(study: Study, recipe: Recipe) -> Trial:
    """The trial that an earlier call did not finish, with its number, values and validations; or the next."""
    from optuna.trial import Trial, TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    _seed(study, recipe, running[0].number if running else len(finished(study)))
    return Trial(study, running[0]._trial_id) if running else study.ask()
