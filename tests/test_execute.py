"""Tasks of the data step: done once and whole, the same on every executor, and resumed after any kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import groundup
from groundup.data.execute import task as task_module
from groundup.data.execute.executor import executor
from groundup.data.execute.task import Task, adopt, finished, perform, sweep
from groundup.errors import UserError

WORK = "tests.stage_work"
# Runs an array's elements one after another, as Slurm would on its nodes.
SBATCH = """#!/bin/sh
for word in "$@"; do case "$word" in
  --array=*) last=${word#--array=0-}; last=${last%%%*};;
  --wrap=*) command=${word#--wrap=};;
esac; done
for SLURM_ARRAY_TASK_ID in $(seq 0 "$last"); do export SLURM_ARRAY_TASK_ID; sh -c "$command" || exit 1; done
"""


def counting(tasks: int = 5) -> list[Task]:
    return [Task("count", f"{n:03d}", f"{WORK}:numbers", {"start": 10 * n, "count": 7}, size=70) for n in range(tasks)]


def files(root: Path) -> dict[str, bytes]:
    """All that tasks wrote, but for what tells how long it took."""
    found = [path for path in root.rglob("*") if path.is_file() and path.name != "times.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def run(kind: str, root: Path, tasks: list[Task]) -> list[bool]:
    """Whether each was done before."""
    with executor(kind, root, 2) as execute:
        found = {done.name: done for done in execute(tasks)}
    assert [found[task.name].result["sum"] for task in tasks] == [70 * n + 21 for n in range(len(tasks))]
    assert all(done.parts == {"counting": [0.5, 0.25]} for done in found.values())
    return [found[task.name].skipped for task in tasks]


@pytest.mark.parametrize("kind", ["pool", "slurm", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_executor_makes_the_same_files(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    tasks = counting()
    assert run("process", here, tasks) == [False] * 5
    assert run(kind, there, tasks[:2]) == [False] * 2
    assert run(kind, there, tasks) == [True, True, False, False, False]
    assert files(there) == files(here)
    assert len(files(here)) == 10


def test_a_task_is_done_again_when_anything_it_depends_on_changed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    root = tmp_path / "stages"
    arguments = {"name": "a", "trace": str(trace)}

    def times(task: Task) -> int:
        perform(task, root)
        return len(trace.read_text().splitlines())

    task = Task("s", "a", f"{WORK}:traced", arguments, ("1",))
    assert times(task) == 1
    assert times(task) == 1
    assert times(Task("s", "a", f"{WORK}:traced", arguments, ("2",))) == 2
    assert times(task) == 3
    (root / "s" / "a" / "name.txt").write_text("cut")
    assert times(task) == 4
    (root / "s" / "a" / "manifest.json").write_text("{")
    assert times(task) == 5


@pytest.mark.slow
def test_a_task_that_ray_loses_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Ray lost a task"), executor("ray", tmp_path, 1) as execute:
        list(execute([*counting(2), Task("s", "a", f"{WORK}:killed", {})]))


@pytest.mark.parametrize("kind", ["process", "pool", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_users_mistake_comes_out_whole_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, executor(kind, tmp_path, 2) as execute:
        list(execute([Task("s", "a", f"{WORK}:mistaken", {})]))
    assert str(caught.value) == "corpus.jsonl:3: is no number; expected a number. Mend it"
    assert files(tmp_path) == {}


def test_a_killed_process_of_the_pool_is_told(tmp_path: Path) -> None:
    tasks = [*counting(2), Task("s", "a", f"{WORK}:killed", {})]
    with (
        pytest.raises(RuntimeError, match=r"was killed.*the same command goes on"),
        executor("pool", tmp_path, 1) as execute,
    ):
        list(execute(tasks))
    assert all(finished(task, tmp_path) for task in tasks[:2])


def test_a_killed_server_of_the_pool_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="was killed"), executor("pool", tmp_path, 2) as execute:
        list(execute([*counting(2), Task("s", "a", f"{WORK}:bereaved", {})]))


def test_an_error_in_the_pool_tells_where_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, executor("pool", tmp_path, 1) as execute:
        list(execute([Task("s", "a", f"{WORK}:mistaken", {})]))
    assert "in mistaken" in str(caught.value.__cause__)


def test_pools_one_after_another_have_each_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module of the working directory isn't taken for a library.
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    for value in ("one", "other"):
        monkeypatch.setenv("GROUNDUP_CACHE", value)
        with executor("pool", tmp_path / "stages", 2) as execute:
            (done,) = execute([Task("s", value, f"{WORK}:variable", {"name": "GROUNDUP_CACHE"})])
        assert done.result == {"value": value}


def _pooled(root: Path, seconds: float) -> None:
    with executor("pool", root, 2) as execute:
        list(execute([Task("s", str(n), f"{WORK}:sleeping", {"seconds": seconds}) for n in range(2)]))


def test_processes_of_a_pool_do_not_outlive_it(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_pooled, args=(tmp_path, 60.0))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("sleeping-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = descendants(process.pid)
    assert len(pids) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def test_a_pool_that_only_starts_does_not_outlive_its_command(tmp_path: Path) -> None:
    for delay in (0.0, 0.3, 0.6, 1.0, 1.5):
        process = multiprocessing.get_context("spawn").Process(target=_pooled, args=(tmp_path, 60.0))
        process.start()
        assert process.pid is not None
        deadline = time.monotonic() + 60
        while not (pids := descendants(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay)
        pids += descendants(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, pids
            time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Processes that began below this one."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """Whether the process is there, and has not only to be waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _traced(root: Path, trace: Path) -> list[Task]:
    return [Task("s", f"{n}", f"{WORK}:traced", {"name": f"{n}", "trace": str(trace)}) for n in range(12)]


def _run_traced(root: Path, trace: Path) -> None:
    with executor("process", root, 1) as execute:
        list(execute(_traced(root, trace)))


def test_what_a_killed_run_finished_is_not_done_again(tmp_path: Path) -> None:
    dice = random.Random(5)
    root, trace = tmp_path / "stages", tmp_path / "trace"
    done: set[str] = set()
    for _ in range(4):
        process = multiprocessing.get_context("spawn").Process(target=_run_traced, args=(root, trace))
        process.start()
        before = len(trace.read_text().splitlines()) if trace.exists() else 0
        deadline = time.monotonic() + 60
        while (len(trace.read_text().splitlines()) if trace.exists() else 0) <= before and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(dice.random() * 0.15)
        process.kill()
        process.join()
        begun = [line.split()[0] for line in trace.read_text().splitlines()[before:]]
        assert not done & set(begun), "a finished task was begun again"
        done = {task.name for task in _traced(root, trace) if finished(task, root)}
    _run_traced(root, trace)
    assert all(finished(task, root) for task in _traced(root, trace))
    sweep(root, {"s": {task.name for task in _traced(root, trace)}})
    assert sorted(path.name for path in (root / "s").iterdir()) == sorted(str(n) for n in range(12))


def test_sweeping_removes_what_no_task_makes_any_more(tmp_path: Path) -> None:
    for task in counting(3):
        perform(task, tmp_path)
    perform(Task("other", "a", f"{WORK}:numbers", {"start": 0, "count": 1}), tmp_path)
    (tmp_path / "count" / ".000.17.abcd").mkdir()
    sweep(tmp_path, {"count": {"000", "002"}})
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*")) == ["count/000", "count/002"]


def test_a_manifest_says_what_was_made_from_what_by_which_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = counting(1)
    perform(task, tmp_path)
    manifest = json.loads((task.folder(tmp_path) / "manifest.json").read_text())
    assert manifest["arguments"] == {"start": 0, "count": 7}
    assert manifest["versions"]["pyarrow"] == version("pyarrow")
    assert manifest["versions"]["groundup"] == groundup.__version__
    assert finished(task, tmp_path)
    # Another version of a library makes other files.
    monkeypatch.setattr(task_module, "versions", lambda: {**manifest["versions"], "pyarrow": "0"})
    assert finished(task, tmp_path) is None


def test_what_is_done_stays_in_place_where_another_is_made_from_the_same(tmp_path: Path) -> None:
    """Two shards without anything of interest to a stage are the same to it."""
    same = [Task("s", name, f"{WORK}:numbers", {"start": 0, "count": 3}) for name in ("00000", "00001")]
    perform(same[0], tmp_path)
    made = (tmp_path / "s" / "00000" / "manifest.json").stat().st_mtime_ns
    adopt(same, tmp_path)
    assert finished(same[0], tmp_path) is not None
    assert (tmp_path / "s" / "00000" / "manifest.json").stat().st_mtime_ns == made
    moved = Task("s", "00007", f"{WORK}:numbers", {"start": 0, "count": 3})
    adopt([moved], tmp_path)
    assert finished(moved, tmp_path) is not None
