"""What a run folder keeps, and what it refuses to have replaced. In this process, without training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from groundup import course
from groundup.command import Target
from groundup.data.tokens import shards
from groundup.data.tokens.tokenizer import Tokenizer
from groundup.deploy import step
from groundup.errors import UserError
from groundup.recipe import show
from groundup.recipe.load import load
from groundup.rundir import RunDir
from tests.conftest import sentences


def prepared(recipe: Path, folder: Path, *settings: str) -> tuple[RunDir, str]:
    """Prepare as the verb does; the run and the step's status."""
    with Target(recipe, folder, settings).opened() as (loaded, run):
        return run, course.prepare(loaded, run).status


def token_files(run: RunDir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run.data / "tokens").iterdir())}


@pytest.mark.parametrize("damage", ["byte", "cut", "missing", "index"])
def test_a_damaged_shard_is_made_again(recipe_file: Path, tmp_path: Path, damage: str) -> None:
    run, _ = prepared(recipe_file, tmp_path / "run")
    whole = token_files(run)
    shard = next((run.data / "tokens").glob("train-*.bin"))
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        os.truncate(shard, 10)
    else:
        # In place, so that the stage's own copy, a link to the same file, is damaged too.
        with (shard if damage == "byte" else shard.with_suffix(".parquet")).open("r+b") as file:
            file.seek(10)
            file.write(b"\xff\xff")
    if damage == "index":  # which nothing looks at before it is asked for: whoever finds it deletes the record
        (run.path / "steps" / "prepare.json").unlink()
    assert prepared(recipe_file, tmp_path / "run")[1] == "done"
    assert token_files(run) == whole
    assert prepared(recipe_file, tmp_path / "run")[1] == "skipped"


def test_bytes_of_the_parts_are_those_of_the_texts_behind_the_tokens(tmp_path: Path, recipe_text: str) -> None:
    """Where repeated paragraphs are cut out of documents, bits per byte count what is left."""
    notice = "This notice stands in every one of the documents, at the end, and is long enough to be looked at."
    texts = [f"{sentences(seed, 12)}\n\n{notice}" for seed in range(60)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = tmp_path / "own.toml"
    recipe.write_text(recipe_text.replace("[data]", "[data]\nduplicate_paragraphs = 60"))
    run, _ = prepared(recipe, tmp_path / "run", 'data.sources=[{path="own.jsonl"}]')
    manifest = json.loads((run.data / "manifest.json").read_text())
    tokenizer, told = Tokenizer(run.data / "tokenizer"), {}
    for split in ("train", "validation"):
        (source,) = shards.open_sources(run.data, manifest, split)
        told[split] = len(tokenizer.decode(source.read(0, source.tokens).tolist()).encode())
    assert {split: facts["bytes"] for split, facts in manifest["splits"].items()} == told
    assert sum(told.values()) < sum(len(text.encode()) for text in texts) - 50 * len(notice)


def test_room_is_looked_for_before_shards_are_written(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: usage._replace(free=10**4))
    with pytest.raises(UserError, match="the disk has 0 MB free, the token shards may take"):
        prepared(recipe_file, tmp_path / "run")
    assert not list((tmp_path / "run").glob("**/*.bin"))
    assert not (tmp_path / "run" / "data").exists()


def test_a_folder_that_another_process_works_in_is_left_as_it_is(recipe_file: Path, tmp_path: Path) -> None:
    target = Target(recipe_file, tmp_path / "run", ())
    with target.opened() as (_, run):
        before = run.recipe_file.read_bytes()
        another = Target(recipe_file, run.path, ("seed=99",)).opened()
        with pytest.raises(UserError, match="another process is working in this run folder"), another:
            pass
        assert run.recipe_file.read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("model.layers=3", "model.layers was 2, is 3"),
        ("seed=8", "seed was 7, is 8"),
        ("train.sequence_length=32", "train.sequence_length was 64, is 32"),
        ('data.sources=[{path="other.jsonl"}]', "data.sources[0].path was"),
        ("tokenizer.vocab_size=310", "tokenizer.vocab_size was 300, is 310"),
    ],
)
def test_a_recipe_of_the_same_name_that_asks_for_another_model_replaces_nothing(
    finished_run: tuple[Path, dict[str, Any]], recipe_file: Path, tmp_path: Path, setting: str, what: str
) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished_run[0], run.path)
    files = (run.recipe_file, run.data / "manifest.json")
    before = [file.read_bytes() for file in files]
    with pytest.raises(UserError) as refused:
        prepared(recipe_file, run.path, setting)
    assert what in refused.value.what
    assert "--allow" in refused.value.advice
    assert [file.read_bytes() for file in files] == before


def test_what_changes_no_data_and_no_model_goes_on(finished_run: tuple[Path, Any], tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished_run[0], run.path)
    settings = ("data.workers=1", "optim.lr=0.02", 'tokenizer.encoder="fastokens"')
    with Target(run.path, None, settings).opened():
        assert load(run.recipe_file).recipe.optim.lr == 0.02
    with Target(run.path, None, ("seed=8",)).opened(allow=("seed",)):
        assert load(run.recipe_file).recipe.seed == 8


def test_a_changed_recipe_of_a_run_is_told_and_keeps_its_origins(
    recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Target(recipe_file, tmp_path / "run", ("train.micro_batch=2",)).opened() as (_, run):
        assert capfd.readouterr().err == ""
    for settings in ((), ("optim.lr=0.02",)):
        with Target(run.path, None, settings).opened():
            pass
        told = capfd.readouterr().err
        assert told == (f"{run.recipe_file}: optim.lr was 0.01, is 0.02\n" if settings else "")
    origins = show.origins(load(run.recipe_file))
    assert origins["train.micro_batch"] == origins["optim.lr"] == "--set"
    assert origins["model.layers"] == f"{recipe_file}:13"
    assert origins["train.log_every"].startswith(f"{recipe_file}:")
    assert origins["optim.eps"] == "default"
    # What someone has written there since is its own origin.
    later = run.recipe_file.stat().st_mtime_ns + 10**9
    os.utime(run.recipe_file, ns=(later, later))
    assert show.origins(load(run.recipe_file))["model.layers"].startswith(f"{run.recipe_file}:")


def test_an_export_that_lost_a_file_is_made_again(
    finished_run: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "export", lambda *_: {"files": {}})
    run = RunDir(tmp_path / "run")
    shutil.copytree(finished_run[0], run.path)
    with Target(run.path, None, ()).opened() as (loaded, _):
        assert course.export(loaded, run).status == "skipped"
        (run.export / "model.safetensors").unlink()
        assert course.export(loaded, run).status == "done"
