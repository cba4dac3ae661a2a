"""Lost ranks and agents on one host: what starts anew, how often, and that the run ends as it would have."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import groundup_json
from tests.launched import children, ended, launched, meeting_place, until
from tests.test_training import same_weights

SETTINGS = ("--set", 'checkpoint.every="10 steps"', "--set", 'train.duration="40 steps"')


def rows(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def losses(run: Path) -> dict[int, float]:
    """By step; of steps trained twice the last."""
    return {row["step"]: row["loss"] for row in rows(run)}


@contextmanager
def training(recipe: Path, run: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    command = ("train", recipe, "--run-dir", run, *SETTINGS, *words, "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "groundup", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def undisturbed(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to, on two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.toml").write_text(recipe_text)
    groundup_json("train", folder / "small.toml", "--run-dir", folder / "run", *SETTINGS, "--nproc", 2)
    return folder / "run"


@pytest.mark.slow
def test_a_run_whose_rank_is_killed_ends_like_one_that_nothing_happened_to(
    undisturbed: Path, recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with training(recipe_file, run, "--nproc", 2) as process:
        for step in (13, 27):
            until(lambda step=step: any(row["step"] >= step for row in rows(run)))  # type: ignore[misc]
            os.kill(children(process.pid)[step % 2], signal.SIGKILL)
        code, result, err = ended(process)
    assert code == 0, err
    assert result["step"] == 40
    told = re.findall(
        r"rank (\d) on \S+: killed by SIGKILL; log: \S+; restarting from the last checkpoint \((.*)\)", err
    )
    assert [number for _, number in told] == ["restart 1 of 3 without a new checkpoint"] * 2, err
    assert losses(run) == losses(undisturbed)
    assert same_weights(run, undisturbed)


@pytest.mark.slow
def test_the_command_goes_on_after_its_agent_was_killed(undisturbed: Path, recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe_file, run, "--nproc", 2) as process:
        until(lambda: any(row["step"] >= 13 for row in rows(run)))
        workers = children(process.pid)
        process.kill()
        assert len(workers) == 2
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=5)
    with training(recipe_file, run, "--nproc", 2) as process:
        code, result, err = ended(process)
    assert (code, result["step"]) == (0, 40), err
    assert losses(run) == losses(undisturbed)
    assert same_weights(run, undisturbed)


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigusr1_saves_and_leaves(nproc: int, recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(recipe_file, run, "--nproc", nproc, "--set", 'train.duration="100000 steps"') as process:
        until(lambda: rows(run))
        process.send_signal(signal.SIGUSR1)
        code, document, err = ended(process)
    assert code == 130, err
    assert "stopped by SIGUSR1 at step" in document["error"]["what"]
    assert "restarting" not in err
    step = int(document["error"]["what"].split("at step ")[1].split(";")[0])
    assert (run / "checkpoints" / f"step-{step:08d}" / "manifest.json").exists()


@pytest.mark.slow
def test_the_rank_that_fails_again_and_again_is_told_once(tmp_path: Path) -> None:
    told: dict[str, Any] = {"arguments": {"rank": 1, "how": "fault"}, "job": {"max_restarts": 2}}
    with launched("fail", tmp_path, **told) as process:
        code, document, err = ended(process)
    error = f"rank 1 on {os.uname().nodename}: ValueError: no such axis; log: {tmp_path / 'logs' / 'rank-1.log'}"
    assert (code, document) == (1, {"error": {"what": error}})
    assert err.splitlines() == [
        f"{error}; restarting from the last checkpoint (restart 1 of 2 without a new checkpoint)",
        f"{error}; restarting from the last checkpoint (restart 2 of 2 without a new checkpoint)",
        f"fault: {error} (--debug shows where)",
    ]
    logs = sorted(path.name for path in (tmp_path / "logs").glob("rank-1*"))
    assert logs == ["rank-1.before-start-1.log", "rank-1.before-start-2.log", "rank-1.log"]
    assert all('raise ValueError("no such axis")' in (tmp_path / "logs" / name).read_text() for name in logs)


@pytest.mark.slow
def test_progress_begins_the_count_anew(tmp_path: Path) -> None:
    """Three failures, each after new progress, with one restart allowed."""
    told: dict[str, Any] = {"arguments": {"folder": str(tmp_path), "failures": 3}, "job": {"max_restarts": 1}}
    with launched("advance", tmp_path, progress=str(tmp_path / "progress"), **told) as process:
        code, document, err = ended(process)
    assert (code, document) == (0, {"attempts": 4}), err
    assert err.count("restart 1 of 1") == 3


def test_a_users_mistake_is_not_tried_again(tmp_path: Path) -> None:
    told: dict[str, Any] = {"arguments": {"rank": 1, "how": "user"}, "job": {"max_restarts": 3}}
    with launched("fail", tmp_path, **told) as process:
        code, _, err = ended(process)
    assert code == 2
    assert err.splitlines() == ["error: table.csv:3: the table is upside down. Turn it round"]


@pytest.mark.slow
def test_a_job_that_hangs_is_started_anew(tmp_path: Path) -> None:
    told: dict[str, Any] = {
        "arguments": {"marker": str(tmp_path / "hung")},
        "job": {"max_restarts": 1, "hang_timeout": 3},
    }
    with launched("hang_once", tmp_path, **told) as process:
        code, document, err = ended(process)
    assert (code, document) == (0, {"rank": 0}), err
    assert "no step finished for 3 s" in err
    assert "restart 1 of 1" in err


@pytest.mark.slow
def test_nodes_with_numbers_start_anew_together(tmp_path: Path) -> None:
    with meeting_place() as rendezvous, ExitStack() as stack:
        nodes = []
        for rank in range(2):
            where = {"local": 1, "nodes": 2, "node_rank": rank, "rendezvous": rendezvous}
            told: dict[str, Any] = {"arguments": {"folder": str(tmp_path), "failures": 1}, "job": {"max_restarts": 1}}
            work = launched("advance", tmp_path / str(rank), processes=where, run_id="three", **told)
            nodes.append(stack.enter_context(work))
        for node in nodes:
            code, document, err = ended(node)
            assert (code, document) == (0, {"attempts": 2}), err
            told_by = f"rank 0 on {os.uname().nodename}: ValueError: so far and no further"
            assert err.splitlines()[0].startswith(told_by), err
            assert err.count("restart 1 of 1") == 1


def elastic(work: str, rendezvous: str, folder: Path, **told: Any) -> Any:
    """A node of an elastic run, one to two of which may train."""
    where = {"local": 1, "nodes": 2, "least": 1, "rendezvous": rendezvous}
    return launched(work, folder, processes=where, run_id="elastic", **told)


@pytest.mark.slow
def test_nodes_that_were_all_killed_do_not_keep_new_ones_waiting(tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path)}
    with meeting_place() as rendezvous:
        with (
            elastic("steps", rendezvous, tmp_path, arguments=arguments) as first,
            elastic("steps", rendezvous, tmp_path, arguments=arguments) as second,
        ):
            until(lambda: all((tmp_path / f"started-{rank}").exists() for rank in range(2)))
            first.kill()
            second.kill()
        with elastic("total", rendezvous, tmp_path) as alone:
            code, document, err = ended(alone)
    assert (code, document["sum"]) == (0, 0.0), err


@pytest.mark.slow
def test_the_rendezvous_may_be_started_anew(tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path)}
    with meeting_place() as rendezvous:
        node = elastic("steps", rendezvous, tmp_path, arguments=arguments)
        process = node.__enter__()
        until((tmp_path / "started-0").exists)
    try:
        assert process.stderr is not None
        until(lambda: "no longer answers" in process.stderr.readline())
        (tmp_path / "started-0").unlink()
        with meeting_place(int(rendezvous.rpartition(":")[2])):
            until((tmp_path / "started-0").exists)
            process.send_signal(signal.SIGTERM)
            code, document, _ = ended(process)
    finally:
        process.kill()
    assert (code, document) == (130, {"error": {"what": "stopped by SIGTERM; saved"}})
