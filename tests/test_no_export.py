"""A model that no Hugging Face class computes: its recipe asks for no export, and all the rest works."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import groundup

EXPERTS = """
[model.experts]
count = 4
per_token = 2
ffn_size = 32
shared_ffn_size = 32
balance = "bias"
"""


def test_a_model_without_a_class_is_trained_and_evaluated_but_not_exported(recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(recipe_file.read_text() + EXPERTS + "[export]\nenabled = false\n")
    run = tmp_path / "run"
    done = groundup("run", recipe_file, "--run-dir", run, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [step["status"] for step in printed["steps"]] == ["done", "done", "done", "skipped"]
    assert printed["export"] == {"path": None, "max_logit_difference": None}
    assert printed["evaluate"]["loss"] < 5.7  # ln 300, of a model that has learnt nothing
    assert "the recipe asks for none (export.enabled = false)" in done.stderr
    assert "groundup serve" not in done.stderr
    assert not (run / "export").exists()
    report = json.loads((run / "report.json").read_text())
    assert (report["missing"], report["problems"]) == ([], [])
    assert "The recipe asks for none" in (run / "report.html").read_text()
    for verb in ("export", "serve"):
        refused = groundup(verb, run)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: export.enabled: the recipe asks for no export")
