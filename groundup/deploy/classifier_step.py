"""The step `export` of a classifier: from the chosen checkpoint to a folder that is checked and served."""

from __future__ import annotations

import json
from typing import Any

import torch

from groundup.console import say
from groundup.deploy.classifier_card import classifier_card
from groundup.deploy.classifier_export import CheckRows, write_classifier
from groundup.deploy.classifier_rows import raw_rows
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir, fingerprint, load_manifest, read_json, write_atomically
from groundup.tasks.classification import Classification
from groundup.train import checkpoint
from groundup.train.identity import refuse_another

CHECK_ROWS = 256
_CHECKED = {"raw rows": "raw rows", "features": "encoded rows (the raw ones could not be read back)"}
_METRICS = ("accuracy", "f1_weighted", "f1_macro", "roc_auc", "loss")
_STATISTICS = ("name", "mean", "std", "min", "max")


def inputs(recipe: TableRecipe, run: RunDir) -> str:
    _, _, manifest = checkpoint.chosen(recipe, run)
    evaluation = read_json(run.path / "evaluate.json")
    data = load_manifest(run)["fingerprint"]
    return fingerprint([manifest["files"], data, recipe.export.model_dump(), evaluation])


def export(recipe: TableRecipe, run: RunDir) -> dict[str, Any]:
    """Writes `export/` and `export.json`; returns what the check found."""
    checkpoints, step, manifest = checkpoint.chosen(recipe, run)
    task = Classification(recipe, run)
    refuse_another(manifest, task.identity, checkpoints.place(step))
    model = task.build(torch.device("cpu"))
    checkpoint.load_model(checkpoints, step, model)
    evaluation = read_json(run.path / "evaluate.json") or {}
    metrics = {k: evaluation[k] for k in _METRICS if evaluation.get(k) is not None}
    lineage = _lineage(task, run, manifest) | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": metrics,
        "metrics_of": task.part,
    }
    shown = {k: v for k, v in lineage.items() if k not in ("metrics", "metrics_of")}
    shown["data"] = {k: v for k, v in lineage["data"].items() if k not in ("columns", "stages")}
    rows = task.test.in_order(0, CHECK_ROWS)
    wanted = task.test.split.source_rows[: len(rows)]
    result = write_classifier(
        model,
        task.preprocessor,
        run.export,
        onnx=recipe.export.onnx,
        tolerance=recipe.export.tolerance,
        rows=CheckRows(rows.features_BF, raw_rows(run.data, wanted, task.preprocessor)),
        card=classifier_card(
            recipe.name,
            recipe.model,
            task.preprocessor,
            parameters=lineage["parameters"],
            onnx=recipe.export.onnx,
            metrics=metrics,
            part=task.part,
            lineage=shown,
        ),
        lineage=lineage,
    )
    others = "the loaded folder's and onnxruntime's" if recipe.export.onnx else "the loaded folder's"
    say(
        f"exported the classifier to {run.export}; over {result['rows']} {_CHECKED[result['checked']]} its logits "
        f"differ from {others} by at most {result['max_logit_difference']:.2g}"
    )
    write_atomically(run.path / "export.json", json.dumps(result, indent=1))
    return result


def _lineage(task: Classification, run: RunDir, manifest: dict[str, Any]) -> dict[str, Any]:
    """From which data, by which code, how far trained."""
    data = task.manifest
    return {
        **(read_json(run.path / "lineage.json") or {}),
        "recipe": task.recipe.name,
        "step": manifest["step"],
        "rows_trained_on": manifest["samples_consumed"],
        "data": {
            "path": task.recipe.data.path,
            "fingerprint": data["fingerprint"],
            "target": data["target"],
            "rows": {part: split["rows"] for part, split in data["splits"].items()},
            "stages": [{k: s[k] for k in ("name", "documents_in", "documents_out", "dropped")} for s in data["stages"]],
            "columns": [{k: column.get(k) for k in _STATISTICS} for column in data["columns"]],
        },
    }
