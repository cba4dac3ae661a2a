"""Setting an earlier training aside, to begin anew: all of it or nothing, whatever happens meanwhile. Needs no torch.

What is to move is written down before the first of it moves, so that whoever comes next finishes what a kill cut short.
Without that a new training would go on in what is left of the old one: its metrics, or its checkpoints.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from groundup import faults
from groundup.console import say
from groundup.errors import UserError
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, read_json, writable, write_atomically
from groundup.train.manifest import checkpoints_of

_INTENT = "superseding.json"  # {"to": a folder, relative to the run's}


def set_aside(recipe: Recipe, run: RunDir) -> None:
    """Move checkpoints and metrics of an earlier training out of the way; nothing is deleted. For the holder of the
    run's lock.

    Raises UserError where the recipe has checkpoints elsewhere, and some are there, or the folder can't be written.
    """
    if recipe.checkpoint.place is not None and checkpoints_of(recipe, run).complete():
        raise UserError(
            "checkpoints of an earlier training are here",
            where=recipe.checkpoint.place,
            advice="Give another checkpoint.place, or remove them",
        )
    if not _of_training(run):
        return
    faults.point("aside.begin")
    with writable(run.path):
        write_atomically(run.path / _INTENT, json.dumps({"to": f"superseded/{_free(run.path / 'superseded')}"}))
    _move(run)


def finish_setting_aside(run: RunDir) -> None:
    """Do the rest of a setting aside that was cut short. For the holder of the run's lock; raises UserError."""
    if is_cut_short(run):
        say(f"{run.path}: setting the earlier training aside was cut short; the rest of it is moved")
        _move(run)


def is_cut_short(run: RunDir) -> bool:
    """Whether an earlier training is set aside in part only."""
    return (run.path / _INTENT).exists()


def refuse_cut_short(run: RunDir) -> None:
    """For who shares the folder with others and may not move anything: raise UserError where a rest is to move."""
    if is_cut_short(run):
        raise UserError(
            "setting an earlier training aside was cut short here",
            where=str(run.path),
            advice=f"Run before, on one node: groundup prepare {run.path}",
        )


def _of_training(run: RunDir) -> list[Path]:
    """What a training has left in the folder."""
    found = (run.checkpoints, run.metrics, run.path / "tensorboard", run.path / "steps" / "train.json")
    return [path for path in found if path.exists()]


def _free(folder: Path) -> str:
    """A name that nothing in the folder has yet."""
    name = time.strftime("%Y%m%d-%H%M%S")
    others = (f"{name}-{number}" for number in range(2, 1_000_000))
    while (folder / name).exists():
        name = next(others)
    return name


def _move(run: RunDir) -> None:
    aside = run.path / read_json(run.path / _INTENT)["to"]
    with writable(run.path):
        aside.mkdir(parents=True, exist_ok=True)
        for path in _of_training(run):
            faults.point("aside.move")
            path.rename(aside / path.name)
        faults.point("aside.moved")
        (run.path / _INTENT).unlink()
