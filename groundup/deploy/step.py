"""The step `export`: from the newest checkpoint to a folder that others can load, checked against transformers."""

from __future__ import annotations

import json
from typing import Any

import torch

from groundup.console import say
from groundup.data.documents import iterate_texts
from groundup.deploy.card import model_card
from groundup.deploy.export import write_export
from groundup.recipe.language import LanguageRecipe
from groundup.rundir import RunDir, fingerprint, read_json, write_atomically
from groundup.tasks.language_model import LanguageModel
from groundup.train import checkpoint
from groundup.train.identity import refuse_another

CHECK_WINDOWS = 2
CHECK_TEXTS = 8
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def inputs(recipe: LanguageRecipe, run: RunDir) -> str:
    _, _, manifest = checkpoint.chosen(recipe, run)
    evaluation = read_json(run.path / "evaluate.json")
    return fingerprint([manifest["files"], recipe.export.model_dump(), recipe.sampling.model_dump(), evaluation])


def export(recipe: LanguageRecipe, run: RunDir) -> dict[str, Any]:
    """Writes `export/` and `export.json`; returns what the check found."""
    checkpoints, step, manifest = checkpoint.chosen(recipe, run)
    task = LanguageModel(recipe, run)
    refuse_another(manifest, task.identity, checkpoints.place(step))
    model = task.build(torch.device("cpu"))
    checkpoint.load_model(checkpoints, step, model)
    evaluation = read_json(run.path / "evaluate.json") or {}
    metrics = {k: evaluation[k] for k in ("loss", "perplexity", "bits_per_byte") if k in evaluation}
    lineage = {
        **(read_json(run.path / "lineage.json") or {}),
        "recipe": recipe.name,
        "step": manifest["step"],
        "training_tokens": manifest["samples_consumed"] * task.length,
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": metrics,
        "data": {
            "fingerprint": task.manifest["fingerprint"],
            "sources": task.manifest["sources"],
            "tokenizer_sha256": task.tokenizer.sha256,
        },
    }
    windows = task.validation.in_order(0, min(CHECK_WINDOWS, task.validation.samples_per_epoch))
    texts = [text[:2000] for _, (_, text) in zip(range(CHECK_TEXTS), iterate_texts(run, "validation"), strict=False)]
    result = write_export(
        model,
        run.data / "tokenizer",
        run.export,
        dtype=_DTYPES[recipe.export.dtype],
        tolerance=recipe.export.tolerance,
        check_tokens_BL=windows.tokens_BL,
        check_texts=texts,
        card=model_card(
            recipe.name,
            recipe.model,
            parameters=lineage["parameters"],
            metrics=metrics,
            lineage={k: v for k, v in lineage.items() if k != "metrics"},
        ),
        lineage=lineage,
        sampling=recipe.sampling,
    )
    say(
        f"exported {result['architecture']} to {run.export}; logits differ from transformers' by at most "
        f"{result['max_logit_difference']:.2g}"
    )
    write_atomically(run.path / "export.json", json.dumps(result, indent=1))
    return result
