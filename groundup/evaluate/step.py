"""The step `evaluate`: the newest checkpoint on the whole validation part, and sample texts."""

from __future__ import annotations

import json
from typing import Any

from groundup.console import Bar, say
from groundup.errors import UserError
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, fingerprint, write_atomically
from groundup.tasks.language_model import LanguageModel
from groundup.train import checkpoint
from groundup.train.device import set_up
from groundup.train.state import refuse_another


def newest_checkpoint(run: RunDir) -> tuple[Any, dict[str, Any]]:
    """Folder and manifest. Raises UserError where nothing is trained."""
    found = checkpoint.newest(run.checkpoints)
    if found is None:
        raise UserError("no checkpoint is here", where=str(run.checkpoints), advice=f"Run: groundup train {run.path}")
    return found


def inputs(recipe: Recipe, run: RunDir) -> str:
    _, manifest = newest_checkpoint(run)
    return fingerprint(
        [manifest["files"], recipe.evaluate.model_dump(), recipe.sampling.model_dump(), recipe.optim.precision]
    )


def evaluate(recipe: Recipe, run: RunDir) -> dict[str, Any]:
    """Writes `evaluate.json`; returns its numbers."""
    device = set_up(recipe.train)
    folder, manifest = newest_checkpoint(run)
    task = LanguageModel(recipe, run)
    refuse_another(manifest, task.identity, folder)
    model = task.build(device)
    checkpoint.load_model(folder, model)
    with Bar("evaluate", task.validation.samples_per_epoch, "windows") as bar:
        result = task.validate(model, device, on_windows=bar.advance)
    samples = task.sample(model, device)
    say(
        f"loss {result['loss']:.4f}, perplexity {result['perplexity']:.2f}, "
        f"{result['bits_per_byte']:.4f} bits per byte over {result['tokens']:,} tokens"
    )
    document = {**result, "step": manifest["step"], "samples": samples}
    write_atomically(run.path / "evaluate.json", json.dumps(document, indent=1, ensure_ascii=False))
    return dict(result)
