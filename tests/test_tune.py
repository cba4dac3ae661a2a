"""`groundup tune`: the range test, the search, its end in the run folder, and going on after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup import course
from groundup.errors import UserError
from groundup.recipe.load import load
from groundup.recipe.quantities import Duration
from groundup.rundir import RunDir
from groundup.tune.range_test import steepest
from groundup.tune.step import tune
from tests.conftest import RECIPE, groundup_json

SHORT = ('checkpoint.every="6 steps"', 'train.duration="6 steps"', "sampling.max_new_tokens=1")
NO_TEST = (*SHORT, "tune.range_test=false")
SEARCH = """
[tune]
trials = 9
[tune.search]
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"model.ffn_size" = { low = 32, high = 64 }
"optim.betas" = { choices = [[0.9, 0.95], [0.9, 0.999]] }
"""


def search(folder: Path, text: str, *settings: str, trials: int | None = None) -> dict[str, Any]:
    """Prepare and tune in this process, as the verb does."""
    file = folder / "small.toml"
    file.write_text(text)
    loaded, run = load(file, settings), RunDir(folder / "run")
    run.open(loaded)
    with run.lock():
        course.prepare(loaded, run)
        return tune(loaded, run, trials)


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    return [r for line in path.read_text().splitlines() if (r := json.loads(line))["kind"] == kind]


@pytest.fixture(scope="module")
def recipe_text(corpus: Path) -> str:
    """The small recipe without its own search."""
    return RECIPE.format(corpus=corpus).split("[tune]")[0]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, recipe_text: str) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("searched")
    return folder / "run", search(folder, recipe_text + SEARCH, *SHORT)


def test_the_best_trial_is_the_complete_one_with_the_lowest_validation_loss(
    searched: tuple[Path, dict[str, Any]],
) -> None:
    run, found = searched
    assert [t["number"] for t in found["trials"]] == list(range(9))
    complete = [t for t in found["trials"] if t["state"] == "complete"]
    best = min(complete, key=lambda t: t["value"])
    assert (found["best_trial"], found["best"], found["best_value"]) == (best["number"], best["values"], best["value"])
    for trial in found["trials"]:
        folder = run / "trials" / f"{trial['number']:04d}"
        measured = [[r["step"], r["loss"]] for r in records(folder / "metrics.jsonl", "validation")]
        assert trial["steps"] == measured
        assert trial["value"] == min(loss for _, loss in measured)
        assert 1e-4 <= trial["values"]["optim.lr"] <= 1e-1
        assert trial["values"]["model.ffn_size"] in range(32, 65)
        assert load(folder / "recipe.toml").recipe.optim.betas == trial["values"]["optim.betas"]


def test_the_search_begins_with_the_recipe_and_with_the_range_tests_rate(searched: tuple[Path, dict[str, Any]]) -> None:
    _, found = searched
    assert found["trials"][0]["values"] == {"optim.lr": 0.01, "model.ffn_size": 64, "optim.betas": [0.9, 0.95]}
    assert found["trials"][1]["values"]["optim.lr"] == pytest.approx(found["range_test"]["suggestion"])


def test_a_trial_behind_the_others_is_stopped_early(searched: tuple[Path, dict[str, Any]]) -> None:
    _, found = searched
    pruned = [t for t in found["trials"] if t["state"] == "pruned"]
    assert pruned
    for trial in pruned:
        assert "median" in trial["reason"]
        assert len(trial["steps"]) < 6
    assert all(len(t["steps"]) == 6 for t in found["trials"] if t["state"] == "complete")


def test_only_the_best_trial_keeps_its_checkpoints_and_all_share_the_data(
    searched: tuple[Path, dict[str, Any]],
) -> None:
    run, found = searched
    kept = {int(p.parts[-3]) for p in run.glob("trials/*/checkpoints/step-*")}
    assert kept == {found["best_trial"]}
    assert all((p / "data").resolve() == (run / "data").resolve() for p in (run / "trials").iterdir())


def test_what_mattered_is_told_in_shares(searched: tuple[Path, dict[str, Any]]) -> None:
    _, found = searched
    assert set(found["importance"]) == {"optim.lr", "model.ffn_size", "optim.betas"}
    assert sum(found["importance"].values()) == pytest.approx(1)


def test_the_best_recipe_trains_to_the_same_value(searched: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, found = searched
    loaded, again = load(run / "best.toml"), RunDir(tmp_path / "again")
    assert loaded.recipe.name == "small-best"
    assert loaded.recipe.optim.lr == found["best"]["optim.lr"]
    again.open(loaded)
    course.prepare(loaded, again)
    course.train(loaded, again)
    assert min(r["loss"] for r in records(again.metrics, "validation")) == found["best_value"]


def test_more_trials_go_on_with_those_there_are(tmp_path: Path, recipe_text: str) -> None:
    text = recipe_text + SEARCH
    first = search(tmp_path, text, *NO_TEST, trials=2)
    same = search(tmp_path, text, *NO_TEST, trials=2)
    assert same == first
    more = search(tmp_path, text, *NO_TEST, trials=3)
    assert more["trials"][:2] == first["trials"]
    assert len(more["trials"]) == 3
    values = [json.dumps(t["values"]) for t in more["trials"]]
    assert len(set(values)) == 3


def test_another_recipe_or_another_search_is_refused_with_what_differs(tmp_path: Path, recipe_text: str) -> None:
    text = recipe_text + SEARCH
    first = search(tmp_path, text, *NO_TEST, trials=1)
    with pytest.raises(UserError, match=r"optim.schedule was cosine, is linear"):
        search(tmp_path, text, *NO_TEST, 'optim.schedule="linear"', trials=2)
    with pytest.raises(UserError, match=r"model.ffn_size.low was 32, is 16"):
        search(tmp_path, text.replace("low = 32", "low = 16"), *NO_TEST, trials=2)
    (tmp_path / "run" / "tune" / "study.journal").unlink()
    anew = search(tmp_path, text, *NO_TEST, 'optim.schedule="linear"', trials=1)
    assert anew["best_value"] != first["best_value"]
    assert list((tmp_path / "run" / "superseded").glob("*/trials/0000/recipe.toml"))


def test_values_that_do_not_go_together_and_divergence_are_pruned_with_the_reason(
    tmp_path: Path, recipe_text: str
) -> None:
    text = recipe_text + (
        '[tune.search]\n"train.micro_batch" = { choices = [4, 3] }\n"optim.lr" = { choices = [0.1, 1e30] }\n'
    )
    found = search(tmp_path, text, *NO_TEST, 'optim.optimizer="sgd"', "optim.clip_norm=0", trials=8)
    for trial in found["trials"]:
        if trial["values"]["train.micro_batch"] == 3:
            assert trial["state"] == "pruned"
            assert trial["reason"].startswith("impossible: train.batch_tokens")
        elif trial["values"]["optim.lr"] == 1e30:
            assert trial["state"] == "pruned"
            assert trial["reason"].startswith(("diverged", "the validation's loss is"))
        else:
            assert trial["state"] == "complete"
    assert len({json.dumps(t["values"]) for t in found["trials"]}) >= 3
    assert math.isfinite(found["best_value"])


TABLE = """
name = "table"
task = "classification"
[data]
path = "{file}"
target = "kind"
validation_fraction = 0.2
[model]
widths = [8]
[optim]
precision = "fp32"
[train]
duration = "4 epochs"
batch_rows = 32
micro_batch = 16
threads = 1
trackers = []
[tune]
trials = 6
metric = "accuracy"
duration = "2 epochs"
[tune.search]
"optim.lr" = {{ low = 1e-4, high = 1e-1, log = true }}
"model.widths" = {{ choices = [[8], [16, 8]] }}
"model.dropout" = {{ low = 0.0, high = 0.5 }}
"""


def test_a_classifier_is_tuned_for_the_highest_accuracy(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 3, 400)
    points = rng.normal(size=(400, 3)) + 1.5 * np.eye(3)[kinds]
    lines = [",".join(f"{x:.4f}" for x in row) + f",{'abc'[kind]}" for row, kind in zip(points, kinds, strict=True)]
    file = tmp_path / "points.csv"
    file.write_text("\n".join(["x,y,z,kind", *lines]) + "\n")
    found = search(tmp_path, TABLE.format(file=file))
    assert (found["metric"], found["direction"]) == ("accuracy", "maximize")
    assert found["trials"][0]["values"]["model.widths"] == [8]
    complete = [t for t in found["trials"] if t["state"] == "complete"]
    assert found["best_value"] == max(t["value"] for t in complete)
    for trial in found["trials"]:
        folder = tmp_path / "run" / "trials" / f"{trial['number']:04d}"
        assert load(folder / "recipe.toml").recipe.train.duration == Duration(2, "epochs")
        measured = [r["accuracy"] for r in records(folder / "metrics.jsonl", "validation")]
        assert [value for _, value in trial["steps"]] == measured
        assert trial["value"] == max(measured)
    assert load(tmp_path / "run" / "best.toml").recipe.train.duration == Duration(4, "epochs")


def test_a_search_without_an_end_says_why(tmp_path: Path, recipe_text: str) -> None:
    text = recipe_text + '[tune.search]\n"train.micro_batch" = { choices = [3, 5] }\n'
    with pytest.raises(UserError, match=r"none of the 2 trials came to its end: impossible: .*micro_batch"):
        search(tmp_path, text, *NO_TEST, trials=2)
    assert json.loads((tmp_path / "run" / "tune.json").read_text())["best"] is None


def test_trials_over_the_tokenizer_prepare_their_own_data(tmp_path: Path, recipe_text: str) -> None:
    text = recipe_text + '[tune.search]\n"tokenizer.vocab_size" = { choices = [300, 280] }\n'
    found = search(tmp_path, text, *NO_TEST, trials=4)
    for trial in found["trials"]:
        data = tmp_path / "run" / "trials" / f"{trial['number']:04d}" / "data"
        assert not data.is_symlink()
        made = json.loads((data / "manifest.json").read_text())["tokenizer"]["vocab_size"]
        assert made == trial["values"]["tokenizer.vocab_size"]
    assert {t["values"]["tokenizer.vocab_size"] for t in found["trials"]} == {280, 300}


@pytest.mark.parametrize(
    ("addition", "settings", "message"),
    [
        ("", (), r'tune.search: .*\n?.*tune.search."optim.lr" = \{low = 1e-4, high = 1e-2, log = true\}'),
        (SEARCH, ('tune.metric="accuracy"',), "no validation metric 'accuracy'; expected one of loss, perplexity"),
        (SEARCH.replace("low = 32", "low = 0.5"), (), r'tune.search."model.ffn_size": 0.5 is no value of model.ffn'),
        (SEARCH.replace("[0.9, 0.999]", "[0.9]"), (), r'tune.search."optim.betas": \[0.9\] is no value of'),
        (SEARCH, ('tune.duration="1 steps"',), "a trial of 1 steps can't be trained: optim.warmup: 2 steps is longer"),
    ],
)
def test_what_can_not_be_searched_is_refused_before_the_first_trial(
    tmp_path: Path, recipe_text: str, addition: str, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        search(tmp_path, recipe_text + addition, *NO_TEST, *settings)
    assert not (tmp_path / "run" / "trials").exists()


def test_the_range_test_ends_where_the_loss_diverges(tmp_path: Path, recipe_text: str) -> None:
    settings = (*SHORT, "optim.weight_decay=1000")  # above a learning rate of 0.002 the weights grow without bound
    found = search(tmp_path, recipe_text + SEARCH, *settings, trials=1)["range_test"]
    assert len(found["lr"]) == len(found["loss"]) == len(found["smoothed"]) < 100
    assert all(math.isfinite(loss) for loss in found["loss"])
    assert found["lr"] == sorted(found["lr"])
    assert found["lr"][0] == pytest.approx(1e-6)
    assert found["smoothed"][-1] > 4 * min(found["smoothed"]) >= max(found["smoothed"][:-1])
    assert found == json.loads((tmp_path / "run" / "tune" / "range_test.json").read_text())


@given(st.floats(-4.0, -1.0), st.floats(0.5, 5.0))
def test_the_suggestion_is_where_the_loss_falls_fastest(place: float, drop: float) -> None:
    """Of a loss that falls around 10^place by `drop`, and blows up two orders of magnitude above."""
    exponents = [-6 + 7 * n / 99 for n in range(100)]
    losses = [6 - drop / (1 + math.exp(-5 * (e - place))) + math.exp(6 * (e - place - 2)) for e in exponents]
    found = steepest([10**e for e in exponents], losses)
    assert found is not None
    assert abs(math.log10(found) - place) < 0.25


def test_a_loss_that_only_rises_suggests_nothing() -> None:
    assert steepest([10.0**n for n in range(-6, 2)], [1.0 * n for n in range(8)]) is None


@pytest.mark.slow
def test_a_killed_search_goes_on_and_finds_what_it_would_have_found(
    tmp_path: Path, searched: tuple[Path, dict[str, Any]], recipe_text: str
) -> None:
    """Killed in the third trial, and interrupted in a later one."""
    file, run = tmp_path / "small.toml", tmp_path / "run"
    file.write_text(recipe_text + SEARCH)
    arguments: list[object] = ["tune", file, "--trials", 5, "--run-dir", run, *(a for s in SHORT for a in ("--set", s))]

    def stop_in(trial: int, number: signal.Signals) -> tuple[int, str]:
        command = [sys.executable, "-m", "groundup", *map(str, arguments)]
        log, deadline = run / "trials" / f"{trial:04d}" / "metrics.jsonl", time.monotonic() + 120
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while not (log.exists() and '"validation"' in log.read_text()):
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.005)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    assert stop_in(2, signal.SIGKILL)[0] == -signal.SIGKILL
    with (run / "tune" / "study.journal").open("a") as journal:
        journal.write('{"op_code": 5, "wor')
    with suppress(FileExistsError):  # the kill itself may have left it
        os.symlink("study.journal", run / "tune" / "study.journal.lock")
    code, errors = stop_in(3, signal.SIGTERM)
    assert code == 130, errors
    assert "trial 3" in errors.splitlines()[-1]
    found = groundup_json(*arguments)
    expected = searched[1]["trials"][:5]
    for trial, other in zip(found["trials"], expected, strict=True):
        assert {**trial, "seconds": 0} == {**other, "seconds": 0}
    assert "resuming at step" in (run / "trials" / "0003" / "log.txt").read_text()


def test_the_terminal_gets_a_line_per_trial_and_nothing_of_optuna(
    tmp_path: Path, recipe_text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path, recipe_text + SEARCH, *NO_TEST, trials=2)
    out, err = capfd.readouterr()
    assert out == ""
    after = err.split("prepare: done")[1].splitlines()[1:]
    assert [line.split(":")[0] for line in after if not line.startswith("tune ")] == ["trial 0", "trial 1"]
    assert "step 6/6" in (tmp_path / "run" / "trials" / "0000" / "log.txt").read_text()
