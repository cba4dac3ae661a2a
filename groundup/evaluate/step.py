"""The step `evaluate`: the chosen checkpoint on all of the task's held-out part, and sample texts."""

from __future__ import annotations

import json
from typing import Any

from groundup.console import Bar, say
from groundup.parallel.model import ParallelModel
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, fingerprint, load_manifest, write_atomically
from groundup.tasks.build import build_task
from groundup.train import checkpoint
from groundup.train.device import set_up
from groundup.train.identity import refuse_another


def inputs(recipe: Recipe, run: RunDir) -> str:
    _, _, manifest = checkpoint.chosen(recipe, run)
    sampling = recipe.sampling.model_dump() if isinstance(recipe, LanguageRecipe) else None
    data = load_manifest(run)["fingerprint"]
    return fingerprint([manifest["files"], data, recipe.evaluate.model_dump(), sampling, recipe.optim.precision])


def evaluate(recipe: Recipe, run: RunDir) -> dict[str, Any]:
    """Writes `evaluate.json`; returns its numbers."""
    device = set_up(recipe.train)
    checkpoints, step, manifest = checkpoint.chosen(recipe, run)
    task = build_task(recipe, run)
    refuse_another(manifest, task.identity, checkpoints.place(step))
    model = task.build(device)
    checkpoint.load_model(checkpoints, step, model)
    with Bar("evaluate", task.evaluation_samples, "samples") as bar:
        result = task.evaluate(ParallelModel([model]), device, bar.advance)
    samples = task.sample(model, device)
    say(task.describe(result))
    document = {**result, "step": manifest["step"], "samples": samples}
    write_atomically(run.path / "evaluate.json", json.dumps(document, indent=1, ensure_ascii=False))
    return dict(result)
