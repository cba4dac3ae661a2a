"""Saves around a training: what a failed one leaves, signs of life, a full disk, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from groundup import faults, heartbeat
from groundup.console import Bar
from groundup.errors import EXIT_INTERRUPTED, BadStep, UserError
from groundup.parity.pool import Pool
from groundup.rundir import RunDir
from groundup.train import checkpoint
from groundup.train.direct_file import ROOM, DirectFile
from groundup.train.fence import Fence
from groundup.train.guard import Guard
from groundup.train.hooks import Save
from groundup.train.identity import refuse_another
from groundup.train.loop import train_step
from groundup.train.manifest import Checkpoints, folder_of
from groundup.train.metrics import Metrics
from groundup.train.saver import Saver
from groundup.train.signals import REPEAT_SECONDS, StopRequest
from groundup.train.state import TrainState
from groundup.train.storage import checksum, open_storage
from tests import parallel_work, save_work
from tests.guard_work import BATCH, CPU, FixedRate, all_of, state_of
from tests.test_storage_faults import small_disk  # noqa: F401  a fixture


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


def test_who_waits_for_others_gives_signs_of_life(pool: Pool) -> None:
    waiting, _ = pool.run(2, save_work.beats_while_waiting, 0.5)
    assert waiting < 0.3


def test_a_checkpoint_that_one_rank_alone_does_not_see_is_not_damaged(pool: Pool, tmp_path: Path) -> None:
    save_work.train_and_save(tmp_path, ())
    told = pool.run(2, save_work.missing_on, 1, tmp_path)
    assert all(text.startswith("UserError") and "not for that of rank 1" in text for text in told)
    told = pool.run(2, save_work.missing_on, 0, tmp_path)
    assert all(text.startswith("CheckpointDamaged") for text in told)


def test_reading_gives_signs_of_life(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(40 << 20))
    beats: list[int] = []
    checksum(open_storage(tmp_path), "file", lambda: beats.append(1))
    assert len(beats) == 3


def test_a_save_that_waits_for_others_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[float] = []
    monkeypatch.setattr(heartbeat, "beat", lambda: beats.append(time.monotonic()))

    def save(*_: Any, waiting: Any, **__: Any) -> None:
        waiting(True)
        time.sleep(2.2)

    monkeypatch.setattr("groundup.train.saver.save", save)
    saver = Saver(Checkpoints(open_storage(tmp_path)), 1, lambda: None)
    saver.start(1, {}, {}, background=False)
    assert len(beats) >= 2


# -- the best checkpoint


@pytest.mark.parametrize("known", [[2.0, 0.1], [0.1, 2.0]])
def test_all_ranks_save_a_best_one_or_none_does(pool: Pool, known: list[float]) -> None:
    """One rank knows already that the save of the best before has failed, and another does not."""
    better = known[0] > 0.5
    found = pool.run(2, parallel_work.best_so_far, known, 0.5)
    assert [improved for improved, _ in found] == [better, better]
    assert [best for _, best in found] == ([0.5, 0.5] if better else known)


class Records:
    """Metrics that are kept here."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def write(self, kind: str, step: int, **_: Any) -> None:
        self.kinds.append(kind)


@pytest.mark.parametrize("background", [True, False])
def test_a_new_best_that_cannot_be_saved_does_not_cost_the_old_one(
    tmp_path: Path, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, records = Checkpoints(open_storage(tmp_path)), Records()
    state = TrainState(state_of(("model.layers=1",))[0].model, [], torch.amp.GradScaler("cpu", enabled=False))
    state.tensors = lambda: {"x": torch.ones(3)}  # type: ignore[method-assign]
    state.facts = {"layout": {}}
    save = Save(Saver(checkpoints, 1, lambda: None), records, Bar("train", None), background, None, 10**6)  # type: ignore[arg-type]

    def step(number: int, loss: float) -> None:
        state.step = state.samples = number
        state.improved("loss", {"loss": loss})
        save(state)
        save.wait(state)

    step(1, 1.0)
    monkeypatch.setattr(faults, "_ASKED", {"points": [{"name": "shard.written", "action": "full"}]})
    step(2, 0.5)
    assert records.kinds == ["checkpoint", "checkpoint_failed"]
    assert state.best == {"step": 1, "metric": "loss", "value": 1.0}
    monkeypatch.undo()
    step(3, 2.0)
    assert checkpoints.complete() == [1, 3]
    found = checkpoint.best(checkpoints)
    assert found is not None
    assert found[0] == 1
    step(4, 0.7)
    step(5, 3.0)
    assert checkpoints.complete() == [4, 5], "better than the one that is there"


# -- the guard, where the host looks only now and then


def lazy_guard(state: TrainState, task: Any, recipe: Any) -> tuple[Guard, list[int]]:
    saved: list[int] = []
    guard = Guard(task, recipe, CPU, Records(), lambda s: saved.append(s.step), lambda _: False, lambda _: None)  # type: ignore[arg-type]
    task.documents = lambda start, stop: []
    guard.device = SimpleNamespace(type="cuda")  # type: ignore[assignment]  not one that is free to read
    return guard, saved


def spoilt(task: Any, bad: int) -> Any:
    fetch = task.batch

    def batch(start: int, stop: int) -> Any:
        found = fetch(start, stop)
        if not start <= bad < stop:
            return found
        weights_BL = found.weights_BL.clone()
        weights_BL[bad - start] = torch.nan
        return replace(found, weights_BL=weights_BL)

    return batch


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_steps_after_a_bad_one_are_taken_back_when_the_host_looks(policy: str) -> None:
    settings = (f'guard.policy="{policy}"', "guard.repeat=false")
    state, task, recipe = state_of(settings)
    twin, twins_task, _ = state_of(settings)
    task.batch = spoilt(task, 2 * BATCH + 1)  # in the third step
    guard, saved = lazy_guard(state, task, recipe)

    def step(one: TrainState, its_task: Any) -> None:
        train_step(one, one.samples + BATCH, its_task, recipe, FixedRate(), CPU)
        one.step, one.samples = one.step + 1, one.samples + BATCH

    for _ in range(2):
        step(twin, twins_task)
    for _ in range(4):
        step(state, task)
        assert guard.after_step(state, wanted=False), "nobody looks"
    step(state, task)
    assert state.step == 5
    if policy == "stop":
        with pytest.raises(BadStep, match="at step 3 "):
            guard.after_step(state, wanted=True)
        assert saved == [2]
    else:
        assert not guard.after_step(state, wanted=True)
        assert state.dropped == [(2 * BATCH, 3 * BATCH)]
    assert (state.step, state.samples) == (2, 2 * BATCH)
    expected = all_of(twin)
    for name, tensor in all_of(state).items():
        assert torch.equal(tensor, expected[name]), name
    assert guard.after_step(state, wanted=True), "nothing is pending any more"


# -- a run folder on a full disk


def test_records_wait_for_room(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    class Failing:
        def scalars(self, step: int, values: dict[str, float]) -> None:
            raise OSError("no room")

    metrics = Metrics(small_disk / "metrics.jsonl", [Failing()])  # type: ignore[list-item]
    metrics.write("train", 0, loss=1.0)
    assert not metrics.trackers
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(1 << 20))
    for step in range(1, 200):
        metrics.write("train", step, loss=1.0, text="x" * 100)
    with pytest.raises(UserError, match="the run folder can't be written: No space left"):
        Fence(small_disk / "fence").take()
    assert capsys.readouterr().err.count("can't be written, and training goes on") == 1
    ballast.unlink()
    metrics.write("train", 200, loss=1.0)
    metrics.close()
    rows = [json.loads(line) for line in (small_disk / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(201))
    assert [path.name for path in small_disk.iterdir()] == ["metrics.jsonl"], "no half of a fence"


@pytest.mark.parametrize("length", [0, 5, 4096, ROOM, 2 * ROOM + 4097])
@pytest.mark.parametrize("piece", [1 << 24, 999_983])
def test_a_file_written_past_the_cache_holds_what_was_written(tmp_path: Path, length: int, piece: int) -> None:
    data = os.urandom(length)
    with DirectFile(tmp_path / "file") as file:
        for start in range(0, length, piece):
            file.write(memoryview(data)[start : start + piece])
        file.sync()
    assert (tmp_path / "file").read_bytes() == data


def test_a_disk_that_gets_full_in_the_middle_of_a_file_is_told(small_disk: Path) -> None:  # noqa: F811
    def write() -> None:
        with DirectFile(small_disk / "file") as file:
            file.write(memoryview(bytes(1 << 20)))
            file.sync()

    with pytest.raises(OSError, match="No space left"):
        write()


# -- signals and locks


def test_a_repeated_signal_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with StopRequest() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == "SIGTERM"
        assert codes == []
        time.sleep(REPEAT_SECONDS + 0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == [EXIT_INTERRUPTED]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_training_ends_with_the_code_of_a_stop(
    finished_run: tuple[Path, object], tmp_path: Path, number: signal.Signals
) -> None:
    run = shutil.copytree(finished_run[0], tmp_path / "run")
    command = [sys.executable, "-m", "groundup", "train", str(run), "--set", 'train.duration="99999 steps"']
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "prepare: up to date" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        errors = process.stderr.read()
    assert process.returncode == EXIT_INTERRUPTED, errors
    assert f"stopped by {number.name}" in errors


def test_looking_whether_a_run_is_busy_keeps_nobody_out(tmp_path: Path) -> None:
    run, over = RunDir(tmp_path), threading.Event()
    with run.lock():
        assert run.busy()

    def look() -> None:
        while not over.is_set():
            run.busy()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(300):
            with run.lock():
                pass
    finally:
        over.set()
        looking.join()


def test_what_only_the_checkpoint_knows_differs_too() -> None:
    old = {"seed": 1, "model": {"width": 2, "gate": True}}
    with pytest.raises(UserError, match=r"model\.gate was True, is None"):
        refuse_another({"identity": old}, {"seed": 1, "model": {"width": 2}}, "here")
    told = refuse_another({"identity": old}, {"seed": 1, "model": {"width": 2}}, "here", ["model.gate"])
    assert told == ["model.gate was True, is None"]


def test_the_folder_of_a_failed_save_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(Checkpoints(open_storage(tmp_path)), 1, lambda: None)
    monkeypatch.setattr(faults, "_ASKED", {"points": [{"name": "shard.written", "action": "full"}]})
    saver.start(1, {"x": torch.ones(3)}, {"best": None}, background=True)
    done = saver.finish()
    assert done is not None
    assert done.error is not None
    assert not (tmp_path / folder_of(1)).exists()
