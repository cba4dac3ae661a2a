"""The model card: an export's README.md, in the form that Hugging Face's hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from groundup.deploy.markdown import cell, flat, table
from groundup.recipe.model import Model


def model_card(
    name: str,
    model: Model,
    *,
    parameters: int,
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
    license: str | None = None,
) -> str:
    """Markdown with a YAML header.

    metrics: by name. lineage: what the model was made from, in tables that may be nested. license: an
    identifier of the hub's list; without one the field is left out, since the choice is the owner's.
    """
    tags = ["text-generation", "groundup"] + (["moe"] if model.experts is not None else [])
    header = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    header += [f"- {tag}" for tag in tags]
    if license is not None:
        header.append(f"license: {json.dumps(license)}")  # a JSON string is a YAML string
    header.append("---")
    shape = {
        "architecture": model.hf_architecture,
        "parameters": f"{parameters:,}",
        "layers": model.layers,
        "width": model.hidden_size,
        "query heads / key-value heads": f"{model.heads} / {model.kv_heads}",
        "context, tokens": f"{model.context_length:,}",
    }
    if model.experts is not None:
        shape["experts / per token"] = f"{model.experts.count} / {model.experts.per_token}"
    usage = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokens = tokenizer(tokenizer.bos_token + "Once", return_tensors="pt", add_special_tokens=False)',
        "print(tokenizer.decode(model.generate(**tokens)[0]))",
        "```",
    ]
    parts = [
        "\n".join(header),
        f"# {cell(name)}",
        "Trained with Groundup. Before this folder was put here, transformers loaded it and its logits were "
        "compared with the trained model's; the figures are in `groundup.json`.",
        "\n".join(usage),
        table("Model", shape),
        table("Metrics", {key: f"{value:.4g}" for key, value in metrics.items()}),
        table("Lineage", dict(flat(lineage))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
