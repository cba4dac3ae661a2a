"""Bad steps: judged on the device, skipped without a trace, repeated, dropped, gone back from; on real runs too."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from groundup.parity.pool import Pool
from groundup.recipe.load import load
from groundup.recipe.quantities import Pace
from groundup.tasks.build import build_task
from groundup.train.judge import FEWEST, Judge
from groundup.train.loop import next_end
from tests import guard_work
from tests.conftest import groundup, groundup_json
from tests.tables import prepare_file
from tests.test_layout_training import forget_after
from tests.test_training import losses, same_weights, weights

CPU = torch.device("cpu")


# -- the judge


def verdicts(judge: Judge, steps: list[tuple[float, float]]) -> list[bool]:
    """Of each step alone: the host settles each."""
    found = []
    for number, (loss, norm) in enumerate(steps):
        skip = judge.judge(torch.tensor(loss), torch.tensor(norm), number, number, number + 1)
        (judged,) = judge.read()
        assert judged.bad == bool(skip)
        found.append(judged.bad)
        judge.go_on()
    return found


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_not_finite_is_bad_from_the_first_step(loss: float, norm: float) -> None:
    assert verdicts(Judge(None, 16, False, CPU), [(loss, norm), (1e9, 1e9)]) == [True, False]


def test_a_loss_scale_sees_to_gradients_that_are_not_finite() -> None:
    steps = [(1.0, float("inf")), (1.0, float("nan")), (float("nan"), 1.0)]
    assert verdicts(Judge(6.0, 16, True, CPU), steps) == [False, False, True]


@pytest.mark.parametrize("which", [0, 1])
def test_spikes_are_those_of_the_formula(which: int) -> None:
    """Beside the formula in plain Python, over a window that wraps round; bad steps do not enter it."""
    generator = torch.Generator().manual_seed(which)
    judge, window, good, expected = Judge(6.0, 24, False, CPU), 24, list[float](), list[bool]()
    values = (5 + 0.3 * torch.randn(120, generator=generator)).tolist()
    for place in (3, 17, 40, 41, 99):
        values[place] = 9.0
    for value in values:
        last = good[-window:]
        middle = statistics.median_low(last) if last else 0.0
        spread = statistics.median_low([abs(x - middle) for x in last]) if last else 0.0
        bad = len(good) >= FEWEST and value > middle + 6.0 * max(1.4826 * spread, 0.01 * middle)
        expected.append(bad)
        if not bad:
            good.append(value)
    pairs = [(value, 1.0) if which == 0 else (1.0, value) for value in values]
    assert [n for n, bad in enumerate(expected) if bad] == [17, 40, 41, 99], "too early at 3"
    assert verdicts(judge, pairs) == expected


def test_hardly_any_noise_makes_no_spike() -> None:
    steps = [(5.0, 1.0)] * 20 + [(5.0 + 5 * 0.01 * 5.0, 1.0), (5.0 + 7 * 0.01 * 5.0, 1.0)]
    assert verdicts(Judge(6.0, 16, False, CPU), steps) == [False] * 21 + [True]


# -- windows


def test_windows_end_where_dropped_ones_begin_and_the_run_ends_at_its_samples() -> None:
    state = guard_work.state_of(("model.layers=1",))[0]
    state.drop(40, 48)
    state.drop(32, 40)
    state.drop(60, 61)
    assert state.dropped == [(32, 48), (60, 61)]

    def windows(per_step: int) -> list[tuple[int, bool]]:
        state.samples, found = 0, []
        while state.samples < 96:
            state.samples, dropped = next_end(state, Pace(per_step, 1000), 96)
            found.append((state.samples, dropped))
        return found

    whole = [(8, False), (16, False), (24, False), (32, False), (40, True), (48, True), (56, False), (60, False)]
    assert windows(8)[:10] == [*whole, (61, True), (69, False)], "as many steps as when they were dropped one by one"
    ends = [(20, False), (32, False), (48, True), (60, False), (61, True), (81, False), (96, False)]
    assert windows(20) == ends


# -- skipping


KINDS = {
    "adamw": (),
    "adam": ('optim.optimizer="adam"',),
    "sgd": ('optim.optimizer="sgd"', "optim.momentum=0.9"),
    "muon": ('optim.optimizer="muon"',),
    "muon-fp16": ('optim.optimizer="muon"', 'optim.precision="fp16"'),
    "fp16": ('optim.precision="fp16"',),
    "experts": ("model.experts={count=4, per_token=2, ffn_size=32}", "model.qk_norm=false"),
}


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_step_and_those_after_it_leave_no_trace(kind: str, before: int) -> None:
    guard_work.leaves_no_trace(KINDS[kind], before)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("adamw", "shard"),
        ("sgd", "shard"),
        ("muon", "shard"),
        ("adam", "replicate"),
        ("adamw", "tensor"),
        ("experts", "expert"),
    ],
)
def test_a_bad_step_leaves_no_trace_on_any_rank(pool: Pool, kind: str, layout: str) -> None:
    """The NaN is on one rank only."""
    degrees = ("parallel.expert=2", "parallel.shard=2") if layout == "expert" else (f"parallel.{layout}=2",)
    found = pool.run(2, guard_work.leaves_no_trace, (*KINDS[kind], *degrees), 1)
    assert found[0] == found[1], "the same loss and norm to the last bit"


def test_an_overflow_under_fp16_is_not_bad_and_lowers_the_scale() -> None:
    assert guard_work.overflow() == (False, 0.5)


# -- documents


def test_the_rows_of_a_tables_samples_are_known(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("x,y\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(60)))
    made = prepare_file(table, tmp_path / "run")
    task = build_task(load(tmp_path / "run" / "recipe-of-test.toml").recipe, made.run)
    train = made.part("train")
    found = task.documents(3, 9)
    assert [entry["sample"] for entry in found] == [3, 4, 5, 6, 7, 8]
    for entry, label in zip(found, task.batch(3, 9).labels_B.tolist(), strict=True):  # type: ignore[attr-defined]
        assert entry["row"] in train.source_rows
        assert label == int(train.labels[train.source_rows.tolist().index(entry["row"])])


# -- whole runs

SETTINGS = ("--set", 'checkpoint.every="4 steps"', "--set", "checkpoint.keep_last=9")
NAN = {"nan": [35]}  # in the fifth of twelve steps of eight samples


def faults(**asked: Any) -> dict[str, str]:
    return {"GROUNDUP_FAULTS": json.dumps(asked)}


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [r for line in (run / "metrics.jsonl").read_text().splitlines() if (r := json.loads(line))["kind"] == kind]


def manifest(run: Path, step: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text())
    return found


@pytest.fixture(scope="module")
def prepared(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "small.toml").write_text(recipe_text)
    groundup_json("prepare", folder / "small.toml", "--run-dir", folder / "run")
    return folder / "run"


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def skipped(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a NaN, whose samples it dropped."""
    run = tmp_path_factory.mktemp("skipped") / "run"
    shutil.copytree(prepared, run)
    result = groundup_json("train", run, *SETTINGS, "--set", "guard.spike=50", **faults(**NAN))
    assert (result["step"], result["samples_consumed"]) == (12, 96)
    return run


def test_a_nan_is_skipped_and_its_documents_are_logged(skipped: Path) -> None:
    assert sorted(losses(skipped)) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert manifest(skipped, 4)["dropped"] == []
    assert manifest(skipped, 8)["dropped"] == [[32, 40]]
    (bad,) = records(skipped, "bad_step")
    assert (bad["step"], bad["samples"], bad["verdict"], bad["policy"]) == (5, [32, 40], "same again", "skip")
    assert bad["reason"] == "the loss is nan"
    assert bad["documents_count"] == len(bad["documents"]) == 8
    assert [entry["sample"] for entry in bad["documents"]] == list(range(32, 40))
    for entry in bad["documents"]:
        assert entry["tokens"][0] == 64 * entry["window"]
        assert entry["documents"], "ids of documents"
    (dropped,) = records(skipped, "dropped")
    assert (dropped["step"], dropped["samples"]) == (5, [32, 40])
    assert not records(skipped, "suspicious")


@pytest.mark.parametrize("step", [4, 8])
def test_a_resume_beside_a_drop_ends_bit_identical(skipped: Path, tmp_path: Path, step: int) -> None:
    """From before it, where it is met again, and from after it, where only the ring of good steps remembers."""
    run = tmp_path / "run"
    shutil.copytree(skipped, run)
    forget_after(run, step)
    groundup_json("train", run, *SETTINGS, "--set", "guard.spike=50", **faults(**NAN))
    assert same_weights(run, skipped)
    assert losses(run) == losses(skipped)
    assert {"guard.losses", "guard.norms", "guard.count"} <= weights(run).keys()
    assert int(weights(run)["guard.count"]) == 11


@pytest.mark.slow
def test_stop_saves_the_state_before_and_says_what_to_do(run: Path, skipped: Path) -> None:
    stop = ("--set", 'guard.policy="stop"', "--set", "guard.spike=50")
    settings = ("--set", 'checkpoint.every="3 steps"', "--set", "checkpoint.keep_last=9")
    done = groundup("train", run, *settings, *stop, **faults(**NAN))
    assert done.returncode == 1
    for words in ("the loss is nan at step 5", "samples [32, 40)", "checkpoint of step 4", "guard.policy"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert manifest(run, 4)["samples_consumed"] == 32
    groundup_json("train", run, *SETTINGS, "--set", 'guard.policy="skip"', "--set", "guard.spike=50", **faults(**NAN))
    assert same_weights(run, skipped)


def test_rewind_goes_back_and_leaves_the_window_out(run: Path, skipped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    folder.mkdir()
    settings = ("--set", 'checkpoint.every="3 steps"', "--set", "checkpoint.keep_last=9", "--set", "guard.spike=50")
    groundup_json("train", run, *settings, "--set", 'guard.policy="rewind"', **faults(**NAN, fetched=str(folder)))
    (resumed,) = records(run, "resume")
    assert (resumed["step"], resumed["samples_consumed"]) == (3, 24)
    assert manifest(run, 6)["dropped"] == [[32, 40]]
    (file,) = folder.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    starts = [row["start"] for row in rows]
    assert starts == [0, 8, 16, 24, 32, 32, 24, 40, 48, 56, 64, 72, 80, 88], "32 once more to repeat it, then not again"
    assert rows[3] == rows[6]
    assert len({row["xxh3"] for row in rows}) == 12
    assert same_weights(run, skipped)
    assert losses(run) == losses(skipped)


def test_rewind_without_a_checkpoint_skips(run: Path, skipped: Path) -> None:
    settings = ("--set", 'checkpoint.every="8 steps"', "--set", "checkpoint.keep_last=9", "--set", "guard.spike=50")
    done = groundup("train", run, *settings, "--set", 'guard.policy="rewind"', **faults(**NAN))
    assert done.returncode == 0, done.stderr
    assert "no checkpoint to go back to" in done.stderr
    assert same_weights(run, skipped)


def test_a_fault_that_passes_drops_nothing(run: Path, finished_run: tuple[Path, dict[str, Any]]) -> None:
    done = groundup("train", run, **faults(flip=[35, 36, 70]))
    assert done.returncode == 0, done.stderr
    assert "step 5 was computed twice" in done.stderr
    assert "nothing is dropped" in done.stderr
    first, second = records(run, "suspicious")
    assert (first["step"], second["step"]) == (5, 9)
    assert first["first"]["loss"] is None
    assert first["again"]["loss"] == losses(run)[5]
    assert losses(run) == losses(finished_run[0])
    assert not records(run, "bad_step")
    assert same_weights(run, finished_run[0])


def test_bad_steps_in_a_row_stop_the_run(run: Path) -> None:
    bad = faults(nan=[0, 9, *range(32, 96)])
    done = groundup("train", run, "--set", "guard.limit=3", "--set", "guard.repeat=false", **bad)
    assert done.returncode == 1
    assert "at step 7 " in done.stderr
    assert "3 bad steps in a row" in done.stderr
    assert manifest(run, 6)["dropped"] == [[0, 16], [32, 48]]


def test_another_global_batch_after_a_drop_keeps_count(skipped: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(skipped, run)
    forget_after(run, 8)
    other = ("--set", "train.batch_tokens=768", "--set", 'train.duration="6144 tokens"', "--set", "guard.spike=50")
    result = groundup_json("train", run, *SETTINGS, *other)
    assert (result["step"], result["samples_consumed"]) == (11, 96), "64 to 76, 88 and 96"
    assert manifest(run, 11)["dropped"] == [[32, 40]]


@pytest.mark.parametrize(
    "layout",
    [
        ("--set", "parallel.shard=2"),
        pytest.param(("--set", "parallel.replicate=2"), marks=pytest.mark.slow),
        pytest.param(("--set", "parallel.pipeline=2"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("policy", ["skip", pytest.param("rewind", marks=pytest.mark.slow)])
def test_two_processes_agree(run: Path, skipped: Path, layout: tuple[str, str], policy: str) -> None:
    settings = ("--set", f'guard.policy="{policy}"', "--set", "guard.spike=50", "--nproc", 2)
    groundup_json("train", run, *SETTINGS, *settings, *layout, **faults(**NAN))
    assert losses(run) == pytest.approx(losses(skipped), rel=1e-4)
    assert manifest(run, 12)["dropped"] == [[32, 40]]
    assert [r["step"] for r in records(run, "resume")] == ([4] if policy == "rewind" else [])
