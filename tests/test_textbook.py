"""The textbook course on a table, end to end, and a test for each of the published course's faults."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from groundup.models.perceptron import build_perceptron
from groundup.optim.optimizers import build_optimizers
from groundup.optim.schedules import build_schedule
from groundup.parallel.model import ParallelModel
from groundup.parity.pool import Pool
from groundup.recipe.load import LoadedRecipe, load
from groundup.recipe.quantities import Duration
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir
from groundup.tasks.classification import Classification
from groundup.train.loop import train_step
from groundup.train.state import TrainState
from tests import parallel_work
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
    assert set(evaluation) == {"loss", "accuracy", "f1_weighted", "f1_macro", "rows", "classes", "part"}
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
        answers = [httpx.post(f"{url}/predict", json={"data": [row]}, timeout=30) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    first, *others = (answer.json()["probabilities"] for answer in answers)
    assert others == [first, first]


# Of 483 training rows the last step of an epoch has 51: 17 on each of three ranks, in portions of 8, 8 and 1.
RAGGED = (
    "train.batch_rows=72",
    "train.micro_batch=8",
    'optim.optimizer="sgd"',
    "optim.momentum=0",
    "optim.clip_norm=0",
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(3) as pool:
        yield pool


def step_of_one_batch(run: Path, *settings: str) -> tuple[range, float, float, dict[str, torch.Tensor]]:
    """What `last_step_of_a_table` must find: one forward and backward pass over all rows of the step."""
    loaded, task = task_of(run, *settings)
    optim, rows = loaded.recipe.optim, task.samples_per_epoch
    start = rows - rows % loaded.recipe.train.batch_rows  # type: ignore[attr-defined]
    model, batch = task.build(CPU).train(), task.batch(start, rows)
    loss = torch.nn.functional.cross_entropy(model(batch.features_BF, batch.positions_B), batch.labels_B)
    loss.backward()
    named = {name: (parameter, parameter.grad) for name, parameter in model.named_parameters()}
    norm = float(torch.cat([grad.flatten() for _, grad in named.values() if grad is not None]).norm())
    weights = {name: (p - optim.lr * grad).detach() for name, (p, grad) in named.items() if grad is not None}
    return range(start, rows), float(loss), norm, weights


def test_ranks_train_on_rows_of_their_own(run: tuple[Path, dict[str, Any]], pool: Pool) -> None:
    """The fault: without a sampler every process sees the same rows."""
    settings = (*RAGGED, "parallel.replicate=3")
    found = pool.run(3, parallel_work.last_step_of_a_table, str(run[0]), settings)
    rows, *_ = step_of_one_batch(run[0], *settings)
    assert len(rows) == 51
    assert [len(trained) for trained, *_ in found] == [17, 17, 17]
    assert sorted(row for trained, *_ in found for row in trained) == list(rows)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_ragged_step_is_that_of_one_batch(run: tuple[Path, dict[str, Any]], pool: Pool, ranks: int) -> None:
    """The fault: a last accumulation of fewer portions is thrown away, and a short portion weighs as much as a long."""
    settings = (*RAGGED, f"parallel.replicate={ranks}")
    rows, loss, norm, weights = step_of_one_batch(run[0], *settings)
    trained = []
    for mine, *numbers, found in pool.run(ranks, parallel_work.last_step_of_a_table, str(run[0]), settings):
        trained += mine
        assert numbers == pytest.approx([loss, norm], rel=1e-5)
        torch.testing.assert_close(found, weights, rtol=1e-5, atol=1e-7)
    assert sorted(trained) == list(rows)


def test_a_pipeline_of_two_parts_and_eight_chunks(run: tuple[Path, dict[str, Any]], pool: Pool) -> None:
    """The fault: the pipeline API of the course is gone from torch."""
    settings = (*RAGGED, "train.batch_rows=64", "parallel.pipeline=2", "parallel.microbatches=8")
    settings = (*settings, 'parallel.cuts=["layers.1"]')
    rows, loss, norm, weights = step_of_one_batch(run[0], *settings)
    (_, *first, front), (trained, *last, back) = pool.run(2, parallel_work.last_step_of_a_table, str(run[0]), settings)
    assert trained == list(rows)
    assert first == last == pytest.approx([loss, norm], rel=1e-5)
    assert {name.split(".")[1] for name in front} == {"0"}
    torch.testing.assert_close(front | back, weights, rtol=1e-5, atol=1e-7)


def test_an_epoch_is_cut_into_steps_that_hold_each_row_once(run: tuple[Path, dict[str, Any]]) -> None:
    loaded, task = task_of(run[0])
    pace, samples, sizes = loaded.recipe.pace(task.samples_per_epoch), 0, []
    while samples < task.samples_per_epoch:
        sizes.append(pace.step_end(samples) - samples)
        samples += sizes[-1]
    assert sizes == [64] * 7 + [35]
    assert sorted(task.train.locate(0, samples).tolist()) == list(range(samples))


def test_the_recipe_is_the_course() -> None:
    recipe = load(RECIPE).recipe
    assert isinstance(recipe, TableRecipe)
    assert (recipe.seed, recipe.serve.port, recipe.train.duration) == (42, 5000, Duration(100, "epochs"))
    assert (Path(recipe.data.path).name, recipe.data.target) == ("raw_data.csv", "target")
    assert (recipe.data.missing, recipe.data.deduplicate, recipe.data.test_fraction) == ("drop", True, 0.2)
    assert (recipe.data.scale, recipe.data.cleaned) == ("standard", "csv")
    assert (recipe.optim.optimizer, recipe.optim.label_smoothing, recipe.optim.z_loss) == ("adam", 0.0, 0.0)
    assert recipe.train.batch_rows == 4 * recipe.train.micro_batch == 256
    perceptron = build_perceptron(recipe.model, 1000, 10, 0, CPU)
    kinds = [(m.in_features, m.out_features) for m in perceptron.modules() if isinstance(m, torch.nn.Linear)]
    assert kinds == [(1000, 512), (512, 256), (256, 10)]
    assert {layer.activation for layer in perceptron.layers} == {torch.nn.functional.relu}
    kept = perceptron.layers[0].dropout.keep(torch.arange(1 << 12, dtype=torch.int32)[:, None] * 0x9E3779B)
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.01)
    pace = recipe.pace(1000)
    schedule = build_schedule(recipe.optim, pace.steps(recipe.train.duration), pace)
    epochs = [0, 29.9, 30, 59.9, 60, 89.9, 90, 99.9]
    rates = [schedule.lr(int(epoch * 1000)) for epoch in epochs]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_the_loss_that_is_shown_is_cross_entropy(run: tuple[Path, dict[str, Any]]) -> None:
    _, task = task_of(run[0], "optim.label_smoothing=0.1", "optim.z_loss=0.01")
    batch = task.batch(0, 40)
    sure_BC = 50.0 * torch.nn.functional.one_hot(batch.labels_B, 3).float()
    minimised, shown = task.loss(task.skeleton(), sure_BC, batch)
    assert float(shown) == pytest.approx(0.0, abs=1e-4)
    assert float(minimised) > 100


def test_without_test_rows_the_figures_say_of_what_they_are(table: Path, tmp_path: Path) -> None:
    words = settings(table, *SHORT, 'train.duration="1 epochs"', "data.test_fraction=0", "model.widths=[8]")
    done = groundup("run", RECIPE, "--run-dir", tmp_path / "run", *words, "--json")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout)["evaluate"]
    manifest = json.loads((tmp_path / "run" / "data" / "manifest.json").read_text())
    assert (evaluation["part"], evaluation["rows"]) == ("validation", manifest["splits"]["validation"]["rows"])
    assert "there are no test rows" in done.stderr
    assert "Metrics on the validation rows" in (tmp_path / "run" / "export" / "README.md").read_text()
    report = (tmp_path / "run" / "report.html").read_text()
    assert "which training never saw" not in report
    assert "there are no test rows" in report


def test_a_table_is_tuned_on_the_command_line(table: Path, tmp_path: Path) -> None:
    words = settings(table, *SHORT, 'train.duration="1 epochs"', "tune.range_test=false")
    found = groundup_json("tune", RECIPE, *words, "--trials", 2, "--run-dir", tmp_path / "run")
    assert set(found["best"]) == {"optim.lr", "model.dropout"}
    assert found["metric"] == "loss"
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 2
    assert load(tmp_path / "run" / "best.toml").recipe.optim.lr == found["best"]["optim.lr"]


def test_breast_cancer_is_told_from_the_file_that_scikit_learn_carries(tmp_path: Path) -> None:
    recipe = RECIPE.with_name("breast_cancer.toml")
    found = groundup_json("run", recipe, "--run-dir", tmp_path, "--set", "train.threads=1")["evaluate"]
    assert (found["classes"], found["rows"]) == (2, 114)
    assert found["accuracy"] >= 0.94


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
        if name.startswith("tests/") and "::" in name:
            file, _, test = name.partition("::")
            assert f"def {test}(" in (RECIPE.parent.parent / file).read_text(), name
        elif name.startswith("groundup/") and " " not in name:
            assert (RECIPE.parent.parent / name).exists(), name
