"""The whole course on a small corpus: its files, its numbers, and what is skipped the second time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from groundup.data.documents import iterate_texts, outcomes
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.errors import UserError
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.load import load
from groundup.rundir import RunDir
from groundup.tasks.language_model import LanguageModel
from tests.conftest import groundup, groundup_json

STEPS = ["prepare", "train", "evaluate", "export"]


def test_run_prints_steps_evaluation_and_export(finished_run: tuple[Path, dict[str, Any]]) -> None:
    run, printed = finished_run
    assert [s["name"] for s in printed["steps"]] == STEPS
    assert all(s["status"] == "done" and s["seconds"] > 0 for s in printed["steps"])
    assert set(printed["evaluate"]) == {"loss", "perplexity", "bits_per_byte"}
    assert printed["export"]["path"] == str(run / "export")
    assert printed["export"]["max_logit_difference"] < 1e-3
    assert (run / "report.html").stat().st_size > 10_000
    report = json.loads((run / "report.json").read_text())
    assert report["evaluation"]["bits_per_byte"] == printed["evaluate"]["bits_per_byte"]
    assert not report["problems"]


def test_the_second_run_skips_everything_and_prints_the_same(
    finished_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(finished_run[0], tmp_path / "run")
    again = groundup_json("run", tmp_path / "run")
    assert [s["status"] for s in again["steps"]] == ["skipped"] * 4
    assert again["evaluate"] == finished_run[1]["evaluate"]
    assert again["export"]["max_logit_difference"] == finished_run[1]["export"]["max_logit_difference"]


@pytest.mark.parametrize(
    ("setting", "runs"),
    [
        ('train.duration="14 steps"', ["train", "evaluate", "export"]),
        ("export.tolerance=0.01", ["export"]),
        ("serve.port=8001", []),
    ],
)
def test_a_step_runs_again_when_its_inputs_changed(
    finished_run: tuple[Path, dict[str, Any]], tmp_path: Path, setting: str, runs: list[str]
) -> None:
    shutil.copytree(finished_run[0], tmp_path / "run")
    again = groundup_json("run", tmp_path / "run", "--set", setting)
    assert [s["name"] for s in again["steps"] if s["status"] == "done"] == runs


@pytest.mark.slow
def test_a_changed_source_file_is_prepared_anew(recipe_file: Path, corpus: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    shutil.copyfile(corpus, own)
    words = ("prepare", recipe_file, "--run-dir", tmp_path / "run", "--set", f'data.sources=[{{path="{own}"}}]')
    first = groundup_json(*words)
    assert groundup_json(*words)["status"] == "skipped"
    with own.open("a") as file:
        file.write(json.dumps({"text": "One more document, quite unlike the others. " * 9}) + "\n")
    second = groundup_json(*words)
    assert second["status"] == "done"
    assert second["fingerprint"] != first["fingerprint"]


def test_every_document_is_kept_or_says_why_not(finished_run: tuple[Path, dict[str, Any]]) -> None:
    data = finished_run[0] / "data"
    found = list(outcomes(RunDir(finished_run[0])))
    assert sum(row["reason"] is None for row in found) == 59
    assert {row["split"] for row in found if row["reason"] is None} == {"train", "validation"}
    (twin,) = (row for row in found if row["reason"] is not None)
    assert twin["id"].endswith("#59")
    assert twin["reason"] == "exact_duplicate"
    assert twin["twin"].endswith("#3")
    stages = {s["name"]: s for s in json.loads((data / "manifest.json").read_text())["stages"]}
    assert list(stages) == ["read", "clean", "exact_dedup", "split", "train_tokenizer", "tokenize"]
    assert stages["exact_dedup"]["documents_in"] - stages["exact_dedup"]["documents_out"] == 1
    assert stages["exact_dedup"]["dropped"] == {"exact_duplicate": 1}


def test_tokens_are_the_documents(finished_run: tuple[Path, dict[str, Any]]) -> None:
    """Shards decode to the kept documents, each after a start token; the index tells where."""
    data = finished_run[0] / "data"
    tokenizer = Tokenizer(data / "tokenizer")
    manifest = json.loads((data / "manifest.json").read_text())
    for file in manifest["files"]:
        tokens = np.fromfile(data / "tokens" / f"{file['name']}.bin", manifest["dtype"])
        assert len(tokens) == file["tokens"]
        texts = [text for _, text in iterate_texts(RunDir(finished_run[0]), file["split"])]
        index = pq.read_table(data / "tokens" / f"{file['name']}.parquet").to_pylist()
        assert len(index) == len(texts) == file["documents"]
        for row, text in zip(index, texts, strict=True):
            ids = tokens[row["start"] : row["start"] + row["tokens"]].tolist()
            assert ids[0] == tokenizer.start_id
            assert tokenizer.decode(ids[1:]) == text
            assert row["bytes"] == len(text.encode())
        assert tokens[-1] == tokenizer.start_id


def test_a_damaged_token_shard_is_noticed(finished_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished_run[0], run.path)
    recipe = load(run.recipe_file).recipe
    assert isinstance(recipe, LanguageRecipe)
    shard = next((run.data / "tokens").glob("train-*.bin"))
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="this token shard is not the one in the manifest") as refused:
        LanguageModel(recipe, run)
    assert refused.value.where == str(shard)
    shard.write_bytes(content[:-2])
    with pytest.raises(UserError, match="missing or cut short"):
        LanguageModel(recipe, run)


@pytest.mark.slow
def test_two_sources_and_an_own_tokenizer(
    finished_run: tuple[Path, dict[str, Any]], recipe_file: Path, tmp_path: Path
) -> None:
    from tests.conftest import sentences

    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(8):
        (folder / f"{n}.md").write_text(sentences(1000 + n, 30))
    corpus = json.loads((finished_run[0] / "data" / "manifest.json").read_text())["sources"][0]["path"]
    sources = f'data.sources=[{{path="{corpus}", weight=1.0}}, {{path="{folder}", weight=3.0, name="texts"}}]'
    tokenizer = f'tokenizer.path="{finished_run[0] / "data" / "tokenizer"}"'
    run = tmp_path / "run"
    result = groundup_json("train", recipe_file, "--run-dir", run, "--set", sources, "--set", tokenizer)
    assert result["step"] == 12
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    assert [s["name"] for s in manifest["sources"]][1] == "texts"
    assert "train_tokenizer" not in [s["name"] for s in manifest["stages"]]


@pytest.mark.slow
def test_best_fit_packing_and_epochs_of_a_source(corpus: Path, recipe_file: Path, tmp_path: Path) -> None:
    sources = f'data.sources=[{{path="{corpus}", epochs=2.0}}, {{path="{corpus}", name="again"}}]'
    settings = (sources, "data.deduplicate=false", 'train.packing="best-fit"', 'train.duration="2 epochs"')
    words = [word for setting in settings for word in ("--set", setting)]
    result = groundup_json("train", recipe_file, "--run-dir", tmp_path / "run", *words)
    data = tmp_path / "run" / "data"
    packed = sorted(path.name for path in (data / "packed").glob("*.windows"))
    assert [name[16:] for name in packed] == ["-000-64.windows", "-001-64.windows"]
    windows = [(data / "packed" / name).stat().st_size // 8 - 1 for name in packed]
    # A run is of whole steps.
    assert 0 <= result["samples_consumed"] - 2 * (2 * windows[0] + windows[1]) < 8


def test_json_is_alone_on_standard_output_and_progress_is_on_standard_error(recipe_file: Path, tmp_path: Path) -> None:
    done = groundup("train", recipe_file, "--run-dir", tmp_path / "run", "--json")
    result = json.loads(done.stdout)
    assert set(result) >= {"step", "samples_consumed", "loss", "tokens_per_second", "peak_memory_mb"}
    assert result["samples_consumed"] == 12 * 8
    assert "step 12/12  loss" in done.stderr
    assert "% of peak" in done.stderr


def test_a_prompt_that_fills_the_context_is_refused_before_training(finished_run: tuple[Path, dict[str, Any]]) -> None:
    run = RunDir(finished_run[0])
    loaded = load(run.recipe_file, (f'sampling.prompts=["a", "{"word " * 130}"]',))
    assert isinstance(loaded.recipe, LanguageRecipe)
    with pytest.raises(UserError, match="and the model's context 128") as refused:
        LanguageModel(loaded.recipe, run)
    assert refused.value.where == "sampling.prompts[1]"


def test_lineage_names_code_and_recipe(finished_run: tuple[Path, dict[str, Any]]) -> None:
    facts = json.loads((finished_run[0] / "export" / "groundup.json").read_text())
    lineage = facts["lineage"]
    assert lineage["data"]["sources"][0]["documents"] == 59
    assert lineage["data"]["tokenizer_sha256"] == Tokenizer(finished_run[0] / "export").sha256
    assert lineage["step"] == 12
    assert len(lineage["recipe_sha256"]) == 64


def test_help_fits_a_screen_and_imports_no_torch(tmp_path: Path) -> None:
    done = groundup("--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    for verb in (
        "init",
        "recipe",
        "plan",
        "prepare",
        "train",
        "evaluate",
        "export",
        "serve",
        "run",
        "report",
        "status",
    ):
        assert verb in done.stdout
    import subprocess
    import sys

    heavy = "{'torch', 'transformers', 'pyarrow', 'numpy'}"
    code = f"import sys, groundup.cli, groundup.recipe.load; print(sorted({heavy} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
