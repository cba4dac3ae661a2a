"""The export of a classifier: a folder that is loaded from scratch and compared before it takes its place.

Shapes: B rows, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundup.data.table.preprocess import Preprocessor
from groundup.deploy.classifier_load import CONFIG, PREPROCESS, describe, from_contents, read_contents
from groundup.deploy.folder import LINEAGE, ExportMismatch, replacing, sha256, write_json
from groundup.models.perceptron import Perceptron
from groundup.models.weights import save_weights

ONNX = "model.onnx"


@dataclass(frozen=True)
class CheckRows:
    """Rows to compare on. features: fp32 [B, F], encoded and scaled, as in training. columns: the same rows as they
    were in the table, as Preprocessor.encode takes them; None where they are not at hand."""

    features_BF: Tensor
    columns: Mapping[str, NDArray[Any]] | None


def write_classifier(
    model: Perceptron,
    preprocessor: Preprocessor,
    folder: Path,
    *,
    onnx: bool,
    tolerance: float,
    rows: CheckRows,
    card: str,
    lineage: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the classifier, check it, and put it in place of an older export.

    onnx: whether to write model.onnx. tolerance: largest difference of a logit, as a share of the largest logit.
    card: the README. lineage: what the model was made from, for groundup.json. The caller sees to it that no other
    process exports to the same folder.

    Returns path, max_logit_difference and relative_difference (the larger of the loaded folder's and ONNX's),
    tolerance, checked ("raw rows" or "features"), rows, and files (name to SHA-256). Raises UserError for a model or
    place that can't do, ExportMismatch where the check fails; either way an older export stays as it was.
    """
    tensors = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    size = sum(tensor.nbytes for tensor in tensors.values())
    with replacing(folder, size * (2 if onnx else 1)) as new:
        save_weights(tensors.items(), new, max_shard_bytes=max(size, 1))
        write_json(new / CONFIG, describe(model))
        write_json(new / PREPROCESS, preprocessor.to_json())
        (new / "README.md").write_text(card, encoding="utf-8")
        if onnx:
            from groundup.deploy.classifier_onnx import write_onnx  # takes a second to import

            write_onnx(model, preprocessor, new / ONNX)
        check = {"tolerance": tolerance, **_check(model, new, rows, tolerance)}
        files = {path.name: sha256(path) for path in sorted(new.iterdir())}
        write_json(new / LINEAGE, {"lineage": lineage, "check": check, "files": files})
        files[LINEAGE] = sha256(new / LINEAGE)
    return {"path": str(folder), **check, "files": files}


@torch.inference_mode()
def _check(model: Perceptron, folder: Path, rows: CheckRows, tolerance: float) -> dict[str, Any]:
    """Compare what the written folder makes of the rows with what the model makes of their features."""
    training = model.training
    device = model.output.weight.device
    expected_BC = model.eval()(rows.features_BF.to(device)).float().cpu().numpy()
    model.train(training)
    loaded, preprocessor = from_contents(read_contents(folder), folder)
    if rows.columns is None:
        features_BF = rows.features_BF
        # Scaling undone and done again: off by rounding, which the tolerance covers.
        raw_BF = features_BF.double().numpy() * preprocessor.scale_F + preprocessor.mean_F
    else:
        features_BF = torch.from_numpy(preprocessor.encode(dict(rows.columns)))
        raw_BF = preprocessor.raw_features(dict(rows.columns))
    made = {"the written folder": loaded(features_BF).numpy()}
    if (folder / ONNX).exists():
        from groundup.deploy.classifier_onnx import run_onnx

        made["onnxruntime"] = run_onnx(folder / ONNX, raw_BF)
    largest = float(np.abs(expected_BC).max())
    worst = 0.0
    for name, logits_BC in made.items():
        difference = float(np.abs(logits_BC - expected_BC).max())
        if not difference <= tolerance * (largest or 1.0):  # a NaN is no match
            raise ExportMismatch(
                f"logits of {name} differ from the model's by up to {difference:.3g}, the largest is {largest:.3g}; "
                f"the tolerance is {tolerance:g} of it"
            )
        worst = max(worst, difference)
    return {
        "max_logit_difference": worst,
        "relative_difference": worst / (largest or 1.0),
        "checked": "features" if rows.columns is None else "raw rows",
        "rows": len(expected_BC),
    }
