"""The stages of the data step together, on a corpus with every flaw planted, through the command line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from groundup.data.documents import outcomes
from groundup.rundir import RunDir
from tests.conftest import groundup, groundup_json
from tests.preparing import MODEL, WORDS

QUESTION = (
    "Which of the seven old lighthouses on the northern coast was built last and never lit before the great storm came?"
)


def passage(dice: random.Random, sentences: int = 14) -> str:
    """Prose of a kind: sentences of words drawn at random, the words that all prose is full of among them."""
    lines = [" ".join(dice.choice(WORDS) for _ in range(12)).capitalize() + "." for _ in range(sentences)]
    return "\n".join(["The rest of it, and that they have to be with us.", *lines])


def corpus() -> list[dict[str, str]]:
    """Good documents, and behind them one of each flaw. The name says what becomes of it."""
    dice = random.Random(3)
    documents = [{"name": "good", "text": passage(dice)} for _ in range(120)]
    first = documents[0]["text"]
    documents.append({"name": "exact_duplicate", "text": "  " + first + "\r\n"})
    documents.append({"name": "near_duplicate", "text": documents[1]["text"].replace("morning", "evening")[:-9]})
    documents.append({"name": "gopher-quality.words_min", "text": "The end of the letter that they have."})
    repeated = "The harbour of the village that they have is to be with the bridge.\n" * 20
    documents.append({"name": "gopher-repetition", "text": repeated})
    documents.append({"name": "contaminated:exam.jsonl", "text": passage(dice, 9) + "\n" + QUESTION})
    documents.append({"name": "empty", "text": " \n "})
    return documents


RECIPE = """\
name = "corpus"
task = "language-model"
[data]
sources = [{ path = "corpus.jsonl", name = "c" }]
filters = ["gopher-quality", "gopher-repetition"]
personal = "mask"
duplicate_paragraphs = 60
validation_fraction = 0.2
slice_size = "20 KiB"
workers = 2
[data.near_duplicates]
threshold = 0.7
[data.decontaminate]
files = ["exam.jsonl"]
fields = ["question"]
"""
RECIPE += MODEL


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in corpus()))
    (folder / "exam.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    (folder / "corpus.toml").write_text(RECIPE)
    return folder / "corpus.toml"


@pytest.fixture(scope="module")
def prepared(recipe: Path) -> tuple[Path, dict[str, Any]]:
    run = recipe.parent / "run"
    return run, groundup_json("prepare", recipe, "--run-dir", run)


def made(run: Path) -> dict[str, bytes]:
    """All files that say what was made, but for how long it took."""
    found = [p for top in ("stages", "data") for p in (run / top).rglob("*") if p.is_file()]
    return {
        str(p.relative_to(run)): p.read_bytes()
        for p in found
        if p.name not in ("times.json", "look.json") and p.relative_to(run) != Path("data/manifest.json")
    }


def test_every_document_is_kept_or_says_why_not(prepared: tuple[Path, dict[str, Any]]) -> None:
    found = {int(row["id"].split("#")[1]): row for row in outcomes(RunDir(prepared[0]))}
    for number, document in enumerate(corpus()):
        row = found[number]
        if document["name"] == "good":
            assert row["reason"] is None, row
            assert row["split"] in ("train", "validation")
        else:
            assert row["reason"].startswith(document["name"]), row
    assert found[120]["twin"] == "c/corpus.jsonl#0"
    assert found[121]["twin"] == "c/corpus.jsonl#1"


def test_the_stages_add_up(prepared: tuple[Path, dict[str, Any]]) -> None:
    _, result = prepared
    stages = {stage["name"]: stage for stage in result["stages"]}
    names = ["read", "clean", "filter", "exact_dedup", "near_dedup", "decontaminate", "split"]
    assert list(stages) == [*names, "paragraph_dedup", "train_tokenizer", "tokenize"]
    for before, after in pairwise(names):
        assert stages[before]["documents_out"] == stages[after]["documents_in"]
        assert stages[before]["bytes_out"] == stages[after]["bytes_in"]
        assert stages[after]["documents_in"] - stages[after]["documents_out"] == sum(stages[after]["dropped"].values())
    assert stages["tokenize"]["documents_out"] == 120
    assert result["tokens"] > 0
    assert 50 < result["peak_memory_mb"] < 4096


def test_why_tells_the_stage_the_rule_and_the_twin(prepared: tuple[Path, dict[str, Any]]) -> None:
    run, _ = prepared
    kept = groundup_json("data", "why", run, "c/corpus.jsonl#7")
    assert kept["kept"]
    assert (run.parent / "corpus.jsonl").read_bytes()[kept["offset"] :].startswith(b'{"name"')
    assert all(rule["passed"] for rule in kept["rules"])
    twin = groundup_json("data", "why", run, "c/corpus.jsonl#121")
    assert (twin["stage"], twin["twin"]["id"]) == ("near_dedup", "c/corpus.jsonl#1")
    short = groundup_json("data", "why", run, "c/corpus.jsonl#122")
    assert short["stage"] == "filter"
    assert next(rule["rule"] for rule in short["rules"] if not rule["passed"]) == "gopher-quality.words_min"
    exam = groundup_json("data", "why", run, "c/corpus.jsonl#124")
    assert exam["evaluations"]["evaluation_set"] == "exam.jsonl"
    assert exam["evaluations"]["item"] == "exam.jsonl#0"
    assert groundup_json("data", "why", run, "c/corpus.jsonl#125")["reason"] == "empty"
    missing = groundup("data", "why", run, "c/corpus.jsonl#999")
    assert missing.returncode == 2
    assert "no document is called 'c/corpus.jsonl#999'; expected an id such as c/corpus.jsonl#0" in missing.stderr


def test_the_batch_of_a_step_names_its_documents(prepared: tuple[Path, dict[str, Any]]) -> None:
    run, _ = prepared
    batch = groundup_json("data", "batch", run, "2")
    assert (batch["step"], batch["samples"], batch["dropped"]) == (2, [8, 16], False)
    assert {entry["sample"] for entry in batch["documents"]} == set(range(8, 16))
    text = (run.parent / "corpus.jsonl").read_bytes()
    kept = {row["id"] for row in outcomes(RunDir(run)) if row["split"] == "train"}
    for entry in batch["documents"]:
        assert entry["id"] in kept
        assert text[entry["offset"] :].startswith(b'{"name": "good"')
    beyond = groundup("data", "batch", run, "4")
    assert beyond.returncode == 2
    assert "expected 1 to 3" in beyond.stderr


def test_another_threshold_computes_no_tag_again(recipe: Path, prepared: tuple[Path, dict[str, Any]]) -> None:
    run = recipe.parent / "again"
    groundup_json("prepare", recipe, "--run-dir", run)

    def stamps(*stages: str) -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for stage in stages for p in sorted((run / "stages" / stage).rglob("*.*"))}

    before = stamps("read", "tag", "sign", "contaminate")
    # A rule that drops nothing more makes nothing of the texts again.
    changed = groundup_json("prepare", recipe, "--run-dir", run, "--set", 'data.rules=[{tag="words", max=100000}]')
    assert changed["fingerprint"] == prepared[1]["fingerprint"]
    assert stamps("read", "tag", "sign", "contaminate") == before
    rules = 'data.rules=[{tag="words", min=100000}]'
    refused = groundup("prepare", recipe, "--run-dir", run, "--set", rules)
    assert refused.returncode == 2
    assert "no document is left to train on" in refused.stderr
    assert "tag: " in refused.stderr
    assert stamps("read", "tag") == {p: t for p, t in before.items() if p.parts[-3] in ("read", "tag")}


@pytest.mark.parametrize("executor", ["process", "pool", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_executor_makes_the_same_bytes(
    recipe: Path, prepared: tuple[Path, dict[str, Any]], executor: str, tmp_path: Path
) -> None:
    groundup_json("prepare", recipe, "--run-dir", tmp_path / "run", "--executor", executor)
    assert made(tmp_path / "run") == made(prepared[0])


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(
    recipe: Path, prepared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    dice = random.Random(1)
    run = tmp_path / "run"
    words = [sys.executable, "-m", "groundup", "prepare", recipe, "--run-dir", run, "--executor", "pool"]
    finished = "*/[!.]*/manifest.json"
    kills, resumed = 0, 0
    done: dict[Path, int] = {}
    while kills < 20:
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
        # However slow the machine is, something is finished before each kill.
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list((run / "stages").glob(finished))) <= len(done):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.5 * dice.random())
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        now = {p: p.stat().st_mtime_ns for p in (run / "stages").glob(finished)}
        assert done.items() <= now.items(), "a finished shard was done again"
        resumed += bool(done)
        done = now
        if ended:
            assert process.returncode == 0
            assert made(run) == made(prepared[0])
            shutil.rmtree(run)
            done = {}
    assert resumed > 5
    groundup_json("prepare", recipe, "--run-dir", run)
    assert made(run) == made(prepared[0])
