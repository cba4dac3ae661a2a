"""The steps in their order, each skipped where its inputs did not change since it last finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groundup.console import say, span
from groundup.data import prepare as data_step
from groundup.deploy import step as export_step
from groundup.evaluate import step as evaluate_step
from groundup.lineage import lineage
from groundup.plan.summary import model_plan
from groundup.recipe.load import LoadedRecipe
from groundup.rundir import RunDir, write_atomically
from groundup.train import train as train_step


@dataclass(frozen=True)
class Outcome:
    """What became of a step. `status`: done or skipped."""

    name: str
    status: str
    seconds: float
    result: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "seconds": round(self.seconds, 2)}


def _step(run: RunDir, name: str, inputs: str, work: Callable[[], dict[str, Any]], *, intact: bool = True) -> Outcome:
    """Do the work, unless the record says it was done from the same inputs and its output is still there."""
    record = run.record(name)
    if record is not None and record.fingerprint == inputs and intact:
        say(f"== {name}: up to date, skipped")
        return Outcome(name, "skipped", 0.0, record.result)
    say(f"== {name}")
    start = time.monotonic()
    result = work()
    seconds = time.monotonic() - start
    run.finish(name, inputs, seconds, result)
    say(f"== {name}: done in {span(seconds)}")
    return Outcome(name, "done", seconds, result)


def prepare(loaded: LoadedRecipe, run: RunDir) -> Outcome:
    """Read, clean, deduplicate, split, tokenize. The result is the data manifest without its list of files."""
    write_atomically(run.path / "lineage.json", json.dumps(lineage(loaded), indent=1))
    files = data_step.find_files(loaded)
    inputs = data_step.inputs(loaded, files)

    def work() -> dict[str, Any]:
        manifest = data_step.prepare(loaded, run, files, inputs)
        say(data_step.summary(manifest))
        return {k: v for k, v in manifest.items() if k != "files"}

    return _step(run, "prepare", inputs, work, intact=(run.data / "manifest.json").exists())


def train(loaded: LoadedRecipe, run: RunDir, *, restart: bool = False) -> Outcome:
    """Train, or go on where a stopped run was."""
    manifest = data_step.load_manifest(run)
    plan = model_plan(loaded.recipe, loaded.recipe.model.vocab_size or manifest["tokenizer"]["vocab_size"])
    write_atomically(run.path / "plan.json", json.dumps(plan, indent=1))
    if restart:
        train_step.set_aside(run)
    inputs = train_step.inputs(loaded.recipe, manifest["fingerprint"])
    intact = any(run.checkpoints.glob("step-*/manifest.json"))
    return _step(run, "train", inputs, lambda: train_step.train(loaded.recipe, run), intact=intact)


def evaluate(loaded: LoadedRecipe, run: RunDir) -> Outcome:
    inputs = evaluate_step.inputs(loaded.recipe, run)
    intact = (run.path / "evaluate.json").exists()
    return _step(run, "evaluate", inputs, lambda: evaluate_step.evaluate(loaded.recipe, run), intact=intact)


def export(loaded: LoadedRecipe, run: RunDir) -> Outcome:
    inputs = export_step.inputs(loaded.recipe, run)
    intact = (run.export / "config.json").exists()
    return _step(run, "export", inputs, lambda: export_step.export(loaded.recipe, run), intact=intact)


def run_course(loaded: LoadedRecipe, run: RunDir) -> list[Outcome]:
    """All of them."""
    return [step(loaded, run) for step in (prepare, train, evaluate, export)]
