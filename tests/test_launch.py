"""Training on several processes of one host: results, failures, signals and hangs, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import groundup, groundup_json
from tests.launched import children, ended, launched, meeting_place, until


def test_the_result_is_rank_0s_and_output_goes_where_it_should(tmp_path: Path) -> None:
    with launched("total", tmp_path, arguments={"key": [1]}) as process:
        code, result, err = ended(process)
    assert code == 0, err
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert result == {"sum": 1.0, "rank": 0, "threads": threads, "backend": "gloo", "arguments": {"key": [1]}}
    assert err.splitlines() == ["printed by a worker", "said by rank 0"]
    assert (tmp_path / "logs" / "rank-1.log").read_text().splitlines() == ["printed by a worker", "said by rank 1"]
    assert not (tmp_path / "logs" / "rank-0.log").exists()


@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [
        ("user", 2, "table.csv:3: the table is upside down. Turn it round"),
        ("fault", 1, "rank 1 on {host}: ValueError: no such axis; log: {log}"),
        ("exit", 1, "rank 1 on {host}: ended with exit code 7 and no word; log: {log}"),
        ("SIGKILL", 1, "rank 1 on {host}: killed by SIGKILL; log: {log}"),
    ],
)
def test_a_rank_that_dies_takes_the_job_down_with_its_own_error(
    how: str, code: int, sentence: str, tmp_path: Path
) -> None:
    with launched("fail", tmp_path, arguments={"rank": 1, "how": how}) as process:
        until((tmp_path / "logs" / "rank-1.log").exists)
        start = time.monotonic()
        found, document, err = ended(process)
    assert found == code
    expected = sentence.format(host=os.uname().nodename, log=tmp_path / "logs" / "rank-1.log")
    assert err.count(expected) == 1
    assert len(err.splitlines()) == 1
    assert document["error"]["what"] in expected
    assert time.monotonic() - start < 30
    if how == "fault":
        assert 'raise ValueError("no such axis")' in (tmp_path / "logs" / "rank-1.log").read_text()


def test_debug_shows_the_ranks_own_traceback(tmp_path: Path) -> None:
    with launched("fail", tmp_path, arguments={"rank": 1, "how": "fault"}, debug=True) as process:
        _, err = process.communicate(timeout=150)
    assert process.returncode == 1
    assert err.count('raise ValueError("no such axis")') == 1


@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGUSR1, os.kill), (signal.SIGINT, os.killpg)]
)
def test_a_signal_lets_every_rank_save_once(
    number: signal.Signals, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    """To the command alone, and to its process group, as Ctrl-C on a terminal."""
    with launched("steps", tmp_path, arguments={"folder": str(tmp_path)}) as process:
        until(lambda: all((tmp_path / f"started-{rank}").exists() for rank in range(2)))
        send(process.pid, number)
        code, document, err = ended(process)
    assert code == 130
    assert document == {"error": {"what": f"stopped by {number.name}; saved"}}
    assert "Traceback" not in err
    assert err.count("finishing this step and saving") == 1
    assert all((tmp_path / f"saved-{rank}").exists() for rank in range(2))


def test_signals_that_reach_workers_too_count_once(tmp_path: Path) -> None:
    """As a scheduler sends them, to every process of a job."""
    with launched("steps", tmp_path, arguments={"folder": str(tmp_path)}) as process:
        until(lambda: all((tmp_path / f"started-{rank}").exists() for rank in range(2)))
        for pid in (process.pid, *children(process.pid)):
            os.kill(pid, signal.SIGTERM)
        code, document, _ = ended(process)
    assert (code, document) == (130, {"error": {"what": "stopped by SIGTERM; saved"}})


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    with launched("steps", tmp_path, arguments={"folder": str(tmp_path)}) as process:
        until(lambda: all((tmp_path / f"started-{rank}").exists() for rank in range(2)))
        workers = children(process.pid)
        process.send_signal(signal.SIGINT)
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(20) == 130
        assert time.monotonic() - start < 0.5
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not list(tmp_path.glob("saved-*"))


def test_a_signal_while_workers_start_ends_them(tmp_path: Path) -> None:
    with launched("steps", tmp_path, arguments={"folder": str(tmp_path)}) as process:
        until(lambda: children(process.pid))
        process.send_signal(signal.SIGTERM)
        code, document, err = ended(process)
    assert (code, document) == (130, {"error": {"what": "stopped by SIGTERM outside training"}})
    assert "Traceback" not in err


def test_workers_die_with_their_agent(tmp_path: Path) -> None:
    with launched("steps", tmp_path, arguments={"folder": str(tmp_path)}) as process:
        until(lambda: all((tmp_path / f"started-{rank}").exists() for rank in range(2)))
        workers = children(process.pid)
        process.kill()
        assert len(workers) == 2
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_hang_is_told_rank_by_rank(tmp_path: Path) -> None:
    with launched("hang", tmp_path, local=3, job={"hang_timeout": 3}) as process:
        code, document, err = ended(process)
    assert code == 1
    reduce, sleep = (line(text) for text in ("distributed.all_reduce(torch.zeros(1))  # hang", "time.sleep(600)"))
    assert document["error"]["what"].splitlines() == [
        "no step finished for 3 s:",
        f"  rank 0, 2 in all_reduce at tests/launch_work.py:{reduce}",
        f"  rank 1 not in a collective: tests/launch_work.py:{sleep}",
    ]
    assert err.count("rank 1 not in a collective") == 1


@pytest.fixture
def rendezvous() -> Iterator[str]:
    with meeting_place() as address:
        yield address


def test_a_rendezvous_is_for_this_machine_alone_unless_told_otherwise(rendezvous: str) -> None:
    from groundup.launch.processes import endpoint
    from groundup.launch.rendezvous import ANY, serve

    host, port = endpoint(rendezvous)
    assert host == "127.0.0.1"
    socket.create_connection((host, port), timeout=5).close()
    other = "127.0.0.2"  # another of this host's addresses
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((other, port), timeout=5)
    store = serve(ANY, 0)
    socket.create_connection((other, store.port), timeout=5).close()


def test_a_node_never_hears_the_answer_of_an_earlier_run(rendezvous: str) -> None:
    from groundup.errors import UserError
    from groundup.launch import meeting
    from groundup.launch.processes import endpoint
    from groundup.launch.rendezvous import connect

    def store() -> Any:
        return connect(*endpoint(rendezvous))

    def refuse(answer: dict[str, Any]) -> None:
        raise UserError("no room")

    watcher = store()
    watcher.set("here/1", "the token of a node that was killed while it waited")
    with ThreadPoolExecutor() as pool:
        for run in range(3):
            told = pool.submit(meeting.tell, store(), 2, {"run": run})
            time.sleep(0.5)  # node 0 is early, and must wait
            assert not told.done()
            assert meeting.hear(store(), 1, lambda answer: None) == {"run": run}
            told.result(timeout=10)
        told = pool.submit(meeting.tell, store(), 2, {"run": 3})
        with pytest.raises(UserError, match="no room"):
            meeting.hear(store(), 1, refuse)
        with pytest.raises(UserError, match="node 1 can't take part: no room"):
            told.result(timeout=10)
        heard = pool.submit(meeting.hear, store(), 1, lambda answer: None)
        until(lambda: watcher.get("here/1"))
        meeting.dismiss(store(), 2, "the disk is full")
        with pytest.raises(UserError, match="node 0 stopped: the disk is full"):
            heard.result(timeout=10)


@pytest.mark.parametrize(
    ("how", "code", "sentence"),
    [("user", 2, "the table is upside down"), ("SIGKILL", 1, "rank 1 on {host}: killed by")],
)
def test_every_node_tells_the_failure_of_the_node_that_failed(
    how: str, code: int, sentence: str, rendezvous: str, tmp_path: Path
) -> None:
    def node(rank: int) -> Any:
        where = {"nodes": 2, "node_rank": rank, "rendezvous": rendezvous}
        told: dict[str, Any] = {"arguments": {"rank": 1, "how": how}, "run_id": "one"}
        return launched("fail", tmp_path / str(rank), local=1, processes={"local": 1, **where}, **told)

    with node(0) as first, node(1) as second:
        for process in (first, second):
            found, document, err = ended(process)
            assert found == code
            assert sentence.format(host=os.uname().nodename) in document["error"]["what"]
            assert len(err.splitlines()) == 1


def test_a_signal_to_one_node_stops_all(rendezvous: str, tmp_path: Path) -> None:
    def node(rank: int) -> Any:
        where = {"nodes": 2, "node_rank": rank, "rendezvous": rendezvous}
        told: dict[str, Any] = {"arguments": {"folder": str(tmp_path)}, "run_id": "two"}
        return launched("steps", tmp_path, processes={"local": 1, **where}, **told)

    with node(0) as first, node(1) as second:
        until(lambda: all((tmp_path / f"started-{rank}").exists() for rank in range(2)))
        second.send_signal(signal.SIGTERM)
        assert [ended(process)[:2] for process in (first, second)] == [
            (130, {"error": {"what": "stopped by another; saved"}}),
            (130, {"error": {"what": "stopped by SIGTERM; saved"}}),
        ]
    assert all((tmp_path / f"saved-{rank}").exists() for rank in range(2))


def line(text: str) -> int:
    """Number of the line of tests/launch_work.py that has this text."""
    lines = Path(__file__).with_name("launch_work.py").read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, start=1) if text in line)
    return number


def train_losses(run: Path) -> list[float]:
    return [
        row["loss"]
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if row["kind"] == "train"
    ]


@pytest.mark.slow
def test_run_on_two_processes_gives_what_one_gives(
    finished_run: tuple[Path, dict[str, Any]], recipe_file: Path, tmp_path: Path
) -> None:
    words = ("run", recipe_file, "--run-dir", tmp_path / "run", "--set", "parallel.shard=2")
    printed = groundup_json(*words)  # as many processes as the layout takes
    assert [step["status"] for step in printed["steps"]] == ["done"] * 4
    assert (tmp_path / "run" / "logs" / "rank-1.log").exists()
    assert printed["evaluate"] == pytest.approx(finished_run[1]["evaluate"], rel=1e-3)
    assert train_losses(tmp_path / "run") == pytest.approx(train_losses(finished_run[0]), rel=1e-4)
    assert [step["status"] for step in groundup_json(*words, "--nproc", 2)["steps"]] == ["skipped"] * 4


@pytest.mark.slow
def test_an_interrupted_run_goes_on(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train", recipe_file, "--run-dir", run, "--nproc", 2, "--set")
    with subprocess.Popen(
        [sys.executable, "-m", "groundup", *map(str, words), 'train.duration="100000 steps"', "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until(lambda: (run / "metrics.jsonl").exists() and '"step": 3' in (run / "metrics.jsonl").read_text())
        process.send_signal(signal.SIGTERM)
        code, document, err = ended(process)
    assert code == 130, err
    assert "stopped by SIGTERM at step" in document["error"]["what"]
    assert "Traceback" not in err
    step = int(document["error"]["what"].split("at step ")[1].split(";")[0])
    assert groundup_json(*words, f'train.duration="{step + 2} steps"')["step"] == step + 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--nodes", 2), "2 nodes need a place to meet"),
        (("--nodes", 2, "--node-rank", 2, "--rendezvous", "a:1"), "there is no node 2 among 2; expected 0 to 1"),
        (("--nodes", 2, "--rendezvous", "a"), "'a' is no address; expected HOST:PORT"),
        (("--nproc", 3, "--set", "parallel.shard=2"), "shard 2 takes a multiple of 2 processes, and there are 3"),
        (
            ("--nodes", 3, "--rendezvous", "a:1", "--set", "parallel.shard=2"),
            "2 processes can't be spread over 3 nodes",
        ),
    ],
)
def test_processes_that_cannot_be_are_refused_before_anything_starts(
    options: tuple[object, ...], told: str, recipe_file: Path, tmp_path: Path
) -> None:
    done = groundup("train", recipe_file, "--run-dir", tmp_path / "run", *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "run").exists()
