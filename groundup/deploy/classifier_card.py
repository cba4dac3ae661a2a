"""The model card of an exported classifier: its README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundup.data.table.preprocess import Preprocessor
from groundup.deploy.markdown import cell, flat, table
from groundup.recipe.table import Classifier

_MANY = 50  # rows of a table in the card; more are in preprocess.json


def classifier_card(
    name: str,
    model: Classifier,
    preprocessor: Preprocessor,
    *,
    parameters: int,
    onnx: bool,
    metrics: Mapping[str, float],
    part: str,
    lineage: Mapping[str, Any],
) -> str:
    """Markdown with a YAML header. metrics: by name. part: of which rows. lineage: what the model was made from."""
    header = ["---", "pipeline_tag: tabular-classification", "tags:", "- tabular-classification", "- groundup", "---"]
    classes = [cell(label) for label in preprocessor.classes]
    shape = {
        "architecture": "multilayer perceptron",
        "parameters": f"{parameters:,}",
        "features": f"{preprocessor.width:,}, of {len(preprocessor.columns):,} columns",
        "hidden layers": ", ".join(map(str, model.widths)) or "none",
        "activation": model.activation,
        "dropout, in training": model.dropout,
        "norm": model.norm,
        "missing values": "filled in" if preprocessor.imputes else "refused",
    }
    columns = {column.name: column.kind for column in preprocessor.columns[:_MANY]}
    files = [
        "- `model.safetensors`, `config.json`: the weights and the layers they belong to",
        "- `preprocess.json`: how a row of the table becomes features; the server does this to every row it is sent",
    ]
    if onnx:
        files.append(
            "- `model.onnx`: the same model for other runtimes. Its input `features` (double, rows by features) is "
            "encoded but not scaled: the scaling is inside. Its outputs are `logits` and `probabilities`. The names "
            "of features and the classes are in its metadata"
        )
    more = len(preprocessor.columns) - _MANY
    parts = [
        "\n".join(header),
        f"# {cell(name)}",
        f"Predicts {cell(preprocessor.target)}, one of {len(classes)} classes: {', '.join(classes[:_MANY])}"
        f"{', ...' if len(classes) > _MANY else ''}. Trained with Groundup. Before this folder was put here it was "
        "loaded from scratch and its logits were compared with the trained model's; the figures are in "
        "`groundup.json`.",
        "\n".join(files),
        table("Model", shape),
        table(f"Metrics on the {part} rows", {key: f"{value:.4g}" for key, value in metrics.items()}),
        table("Columns, in the order of a row", columns) + (f"\n\nand {more:,} more." if more > 0 else ""),
        table("Lineage", dict(flat(lineage))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
