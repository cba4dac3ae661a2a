"""The model card."""

from __future__ import annotations

import yaml

from groundup.deploy.card import model_card
from tests.shapes import MODELS


def test_model_card() -> None:
    card = model_card(
        "a | <name>",
        MODELS["mixtral"],
        parameters=1_234_567,
        metrics={"bits per byte": 2.34567},
        lineage={"code": {"version": "0.1.0"}, "sources": ["a|b.txt"], "sha256": "0a_1"},
        license="cc-by-4.0",
    )
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "cc-by-4.0",
        "tags": ["text-generation", "groundup", "moe"],
    }
    assert "# a \\| \\<name\\>" in body
    assert "| parameters | 1,234,567 |" in body
    assert "| bits per byte | 2.346 |" in body
    assert "| code.version | 0.1.0 |" in body
    assert "a\\|b.txt" in body
    assert "license" not in model_card("x", MODELS["llama"], parameters=1, metrics={}, lineage={})
