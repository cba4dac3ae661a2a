"""The textbook course on a table, end to end, and a test for each of the published course's faults."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from groundup.optim.optimizers import build_optimizers
from groundup.optim.schedules import build_schedule
from groundup.parallel.model import ParallelModel
from groundup.recipe.load import LoadedRecipe, load
from groundup.rundir import RunDir
from groundup.tasks.classification import Classification
from groundup.train.loop import train_step
from groundup.train.state import TrainState
from tests.conftest import groundup, groundup_json, served

CPU = torch.device("cpu")
RECIPE = Path(__file__).parent.parent / "examples" / "textbook.toml"
COLOURS = ("red", "green", "blue")
ROWS = 700


def make_rows(seed: int) -> list[list[Any]]:
    """Columns of very different sizes, one of names, a target of words, some missing values, some rows twice."""
    random = np.random.default_rng(seed)
    rows: list[list[Any]] = []
    for _ in range(ROWS):
        kind = random.integers(3)
        numbers = random.normal(size=4) + np.array([kind, -kind, 0.5 * kind, 0])
        scaled = numbers * np.array([1, 1000, 1e-3, 1]) + np.array([0, 50_000, 0, 0])
        colour = COLOURS[kind] if random.random() < 0.6 else COLOURS[random.integers(3)]
        rows.append([*(round(float(x), 9) for x in scaled), colour, ("ash", "beech", "oak")[kind]])
    for n in range(10):
        rows[n][n % 4] = ""
    return rows + rows[100:120]


def write_csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["height", "weight", "depth", "noise", "colour", "tree"])
        writer.writerows(rows)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "raw_data.csv"
    write_csv(path, make_rows(1))
    return path


def settings(table: Path, *more: str) -> list[str]:
    values = [f'data.path="{table}"', 'data.target="tree"', "train.threads=1", "train.trackers=[]", *more]
    return [word for value in values for word in ("--set", value)]


SHORT = (
    "model.widths=[32, 16]",
    'train.duration="8 epochs"',
    "train.batch_rows=64",
    "train.micro_batch=32",
    "train.log_every=1",
    "optim.lr=0.01",
)


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("textbook") / "run"
    return folder, groundup_json("run", RECIPE, "--run-dir", folder, *settings(table, *SHORT))


def task_of(run: Path, *changes: str) -> tuple[LoadedRecipe, Classification]:
    loaded = load(run / "recipe.toml", changes)
    return loaded, Classification(loaded.recipe, RunDir(run))  # type: ignore[arg-type]


def test_the_whole_course(run: tuple[Path, dict[str, Any]], table: Path) -> None:
    folder, printed = run
    assert [step["name"] for step in printed["steps"]] == ["prepare", "train", "evaluate", "export"]
    evaluation = printed["evaluate"]
    assert set(evaluation) == {"loss", "accuracy", "f1_weighted", "f1_macro", "rows", "classes"}
    assert evaluation["accuracy"] > 0.75
    assert evaluation["classes"] == 3
    assert Path(printed["export"]["path"]).is_dir()
    assert printed["export"]["max_logit_difference"] < 1e-3
    manifest = json.loads((folder / "data" / "manifest.json").read_text())
    assert sum(part["rows"] for part in manifest["splits"].values()) == ROWS - 10
    assert evaluation["rows"] == manifest["splits"]["test"]["rows"]
    assert (folder / "report.html").stat().st_size > 10_000
    again = groundup_json("run", RECIPE, "--run-dir", folder, *settings(table, *SHORT))
    assert [step["status"] for step in again["steps"]] == ["skipped"] * 4
    assert again["evaluate"] == evaluation
    status = groundup_json("status", folder)
    assert status["state"] == "finished"
    assert status["samples_consumed"] == 8 * manifest["splits"]["train"]["rows"]
    plan = groundup_json("plan", folder)
    widths = [manifest["features"], 32, 16, 3]
    total = sum(a * b + b for a, b in itertools.pairwise(widths))
    assert plan["parameters"]["total"] == total


def test_raw_rows_are_served_as_they_were_trained(run: tuple[Path, dict[str, Any]], table: Path) -> None:
    """The fault: the scaler stays behind in the training script, and the server's model sees other numbers."""
    folder, printed = run
    with table.open(newline="") as file:
        _, *rows = csv.reader(file)
    test_rows = np.load(folder / "data" / "test" / "rows.npy")
    raw = [[*map(float, rows[n][:4]), rows[n][4]] for n in test_rows]
    wanted = [rows[n][5] for n in test_rows]
    with served(folder) as url:
        answer = httpx.post(f"{url}/predict", json={"data": raw}, timeout=30).json()
    right = np.mean([a == b for a, b in zip(answer["predictions"], wanted, strict=True)])
    assert right == pytest.approx(printed["evaluate"]["accuracy"])
    assert answer["classes"] == ["ash", "beech", "oak"]
    assert np.allclose(np.sum(answer["probabilities"], 1), 1.0, atol=1e-5)


def test_served_predictions_have_no_dropout(run: tuple[Path, dict[str, Any]]) -> None:
    """The fault: a model in training mode answers each time differently."""
    folder, _ = run
    row = {"height": 0.3, "weight": 49_000, "depth": 0.0004, "noise": 1.2, "colour": "red"}
    with served(folder) as url:
        answers = [httpx.post(f"{url}/predict", json={"data": [row]}, timeout=30).json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_slices_of_a_batch_are_disjoint_and_complete(run: tuple[Path, dict[str, Any]]) -> None:
    """The fault: without a sampler every process sees the same rows."""
    _, task = task_of(run[0])
    whole = task.batch(100, 164)
    parts = [task.batch(100 + 16 * rank, 116 + 16 * rank) for rank in range(4)]
    assert torch.equal(torch.cat([p.features_BF for p in parts]), whole.features_BF)
    assert len({int(p) for part in parts for p in part.positions_B}) == 64


def test_every_row_of_an_epoch_counts_once_and_alike(run: tuple[Path, dict[str, Any]]) -> None:
    """The fault: a last accumulation of fewer portions is thrown away, and a short portion weighs as much as a long."""
    loaded, task = task_of(run[0])
    pace = loaded.recipe.pace(task.samples_per_epoch)
    assert task.samples_per_epoch % 64
    samples, sizes = 0, []
    while samples < task.samples_per_epoch:
        end = pace.step_end(samples)
        sizes.append(end - samples)
        samples = end
    assert samples == task.samples_per_epoch
    assert sizes[-1] == task.samples_per_epoch % 64
    rows = task.train.locate(0, samples)
    assert sorted(rows.tolist()) == list(range(samples))

    model = task.build(CPU).train()
    batch = task.batch(samples - sizes[-1], samples)
    grads = []
    for micro in (len(batch), 32, 7):
        model.zero_grad()
        for start in range(0, len(batch), micro):
            part = batch.rows(start, start + micro)
            loss, _ = task.loss(model, model(**task.arguments(part)), part)
            (loss / batch.counted).backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in grads[1:]:
        for got, wanted in zip(other, grads[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_test_rows_choose_nothing(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The fault: the test part is the only validation, so the best checkpoint is chosen on what it is judged by."""
    folder, _ = run
    other = tmp_path / "run"
    shutil.copytree(folder, other)
    labels = other / "data" / "test" / "labels.npy"
    np.save(labels, 2 - np.load(labels))
    trained = groundup_json("train", other, "--restart")
    before, after = (
        [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()] for place in (folder, other)
    )
    pick = [(r["step"], r["loss"], r["accuracy"]) for r in before if r["kind"] == "validation"]
    assert pick == [(r["step"], r["loss"], r["accuracy"]) for r in after if r["kind"] == "validation"]
    newest = max(other.glob("checkpoints/step-*/manifest.json"))
    best = json.loads(newest.read_text())["best"]
    assert best["value"] == min(loss for _, loss, _ in pick)
    assert trained["rows_per_second"] > 0
    (other / "steps" / "evaluate.json").unlink()  # the weights are the same, and what was done to the rows nobody saw
    judged = groundup_json("evaluate", other)
    manifest = json.loads((other / "evaluate.json").read_text())
    assert manifest["step"] == best["step"]
    assert judged["accuracy"] != json.loads((folder / "evaluate.json").read_text())["accuracy"]


def test_no_export_holds_a_pickle(run: tuple[Path, dict[str, Any]]) -> None:
    export = run[0] / "export"
    names = {path.name for path in export.rglob("*") if path.is_file()}
    assert {"model.safetensors", "model.onnx", "preprocess.json", "config.json"} <= names
    for path in export.rglob("*"):
        start = path.read_bytes()[:4]
        assert start[:1] != b"\x80", path  # a pickle's protocol mark
        assert start != b"PK\x03\x04", path  # torch.save's archive


def test_gradients_are_unscaled_before_clipping(run: tuple[Path, dict[str, Any]]) -> None:
    """The fault: clipped while still multiplied by 65,536, gradients all but vanish."""
    moved = []
    for precision in ("fp32", "fp16"):
        loaded, task = task_of(
            run[0], f'optim.precision="{precision}"', "optim.clip_norm=0.05", 'optim.optimizer="sgd"'
        )
        recipe, pace = loaded.recipe, loaded.recipe.pace(task.samples_per_epoch)
        model = task.build(CPU).train()
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, enabled=precision == "fp16")
        state = TrainState(ParallelModel([model]), build_optimizers(model.named_parameters(), recipe.optim), scaler)
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        result = train_step(state, 64, task, recipe, build_schedule(recipe.optim, 10, pace), CPU)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moved.append((float(result.grad_norm), float((after - before).norm())))
    assert moved[0][1] == pytest.approx(0.05 * 0.01, rel=1e-3)
    assert moved[1][0] == pytest.approx(moved[0][0], rel=0.02)
    assert moved[1][1] == pytest.approx(moved[0][1], rel=0.02)


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_ends_with_the_same_weights(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = run
    other = tmp_path / "run"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "checkpoints")
    (other / "metrics.jsonl").unlink()
    (other / "steps" / "train.json").unlink()
    groundup_json("train", other, "--set", 'train.duration="3 epochs"', "--set", 'optim.step_every="30 epochs"')
    again = groundup_json("train", other, "--set", 'train.duration="8 epochs"')
    assert (
        again["samples_consumed"]
        == json.loads((folder / "steps" / "train.json").read_text())["result"]["samples_consumed"]
    )
    norms = []
    for place in (folder, other):
        _, task = task_of(place)
        from groundup.train import checkpoint
        from groundup.train.manifest import Checkpoints
        from groundup.train.storage import open_storage

        checkpoints = Checkpoints(open_storage(place / "checkpoints"))
        found = checkpoint.newest(checkpoints)
        assert found is not None
        model = task.build(CPU)
        checkpoint.load_model(checkpoints, found[0], model)
        norms.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*norms)


def test_class_weights_make_classes_count_alike(run: tuple[Path, dict[str, Any]]) -> None:
    _, plain = task_of(run[0])
    _, weighted = task_of(run[0], 'train.class_weights="balanced"')
    batch = weighted.batch(0, weighted.samples_per_epoch)
    assert plain.batch(0, 10).counted == 10
    sums = [float(batch.weights_B[batch.labels_B == c].sum()) for c in range(3)]
    assert sums == pytest.approx([sum(sums) / 3] * 3, rel=1e-4)
    assert batch.counted == pytest.approx(weighted.samples_per_epoch, rel=1e-4)


def test_every_command_of_the_walk_is_a_verb() -> None:
    page = (RECIPE.parent.parent / "docs" / "textbook.md").read_text()
    helped = groundup("--help").stdout
    for line in page.splitlines():
        if line.startswith("groundup "):
            assert f"  {line.split()[1]} " in helped, line
    for name in page.split("`"):
        if name.startswith("tests/test_textbook.py::"):
            assert name.partition("::")[2] in globals(), name
        elif name.startswith("groundup/") and " " not in name:
            assert (RECIPE.parent.parent / name).exists(), name


def test_the_gradient_norm_is_of_the_whole_step(run: tuple[Path, dict[str, Any]]) -> None:
    loaded, task = task_of(run[0], "model.dropout=0.0")
    pace = loaded.recipe.pace(task.samples_per_epoch)
    model = task.build(CPU).train()
    batch = task.batch(0, 64)
    (task.loss(model, model(**task.arguments(batch)), batch)[0] / 64).backward()
    wanted = float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
    model.zero_grad()
    optimizers = build_optimizers(model.named_parameters(), loaded.recipe.optim)
    state = TrainState(ParallelModel([model]), optimizers, torch.amp.GradScaler("cpu", enabled=False))
    result = train_step(state, 64, task, loaded.recipe, build_schedule(loaded.recipe.optim, 10, pace), CPU)
    assert float(result.grad_norm) == pytest.approx(wanted, rel=1e-4)
