"""Nodes that come and go: network namespaces as hosts, and the rendezvous on one of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import groundup, groundup_json
from tests.hosts import Host, network
from tests.test_restarts import losses, rows

PORT = 29400
SETTINGS = ("--set", 'checkpoint.every="5 steps"', "--set", 'optim.schedule="constant"', "--set", "optim.lr=0.001")
# A validation after each step slows training down, and leaves its numbers alone.
SLOW = ("--set", 'train.validate_every="1 steps"', "--set", "train.validation_tokens=4000")


def duration(steps: int) -> tuple[str, str]:
    return "--set", f'train.duration="{steps} steps"'


class Nodes:
    """Hosts that train one run, and the host of its rendezvous."""

    def __init__(self, hosts: list[Host], words: tuple[object, ...], folder: Path) -> None:
        self.rendezvous, *self.hosts = hosts
        self.words, self.folder = words, folder
        self.store = self.rendezvous.start("rendezvous", "--host", "any", "--port", PORT, log=folder / "store.log")
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self.started = [self.store]

    def start(self, node: int, nodes: str = "1:3", *more: object) -> None:
        place = ("--nodes", nodes, "--rendezvous", f"{self.rendezvous.address}:{PORT}")
        log = self.folder / f"node-{node}-{len(self.started)}.log"
        process = self.hosts[node].start("train", *self.words, *place, *more, "--json", log=log)
        self.processes[node] = process
        self.started.append(process)

    def said(self) -> str:
        logs = sorted(self.folder.glob("node-*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs)

    def until(self, happened: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def ended(self, node: int) -> tuple[int, dict[str, Any]]:
        out, _ = self.processes[node].communicate(timeout=120)
        return self.processes[node].returncode, json.loads(out)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with network("store", "node-a", "node-b", "node-c") as found:
        yield found


def worlds(run: Path) -> list[int]:
    """Of each start that took up a checkpoint, the step it went on from."""
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in found if row["kind"] == "resume"]


@pytest.mark.slow
def test_nodes_are_killed_cut_off_and_come_back_and_the_run_is_that_of_one_process(
    hosts: list[Host], recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (recipe_file, "--run-dir", run, *SETTINGS)
    groundup_json("prepare", *words)
    with Nodes(hosts, (*words, *SLOW, *duration(100000)), tmp_path) as nodes:

        def steps(more: int) -> None:
            """Until there are so many more steps."""
            before = len(rows(run))
            nodes.until(lambda: len(rows(run)) >= before + more, 120)

        for node in range(3):
            nodes.start(node)
        nodes.until(lambda: nodes.said().count("of 3: ranks") == 3, 90)
        steps(7)

        refused = groundup("train", *words, *duration(100000))
        assert refused.returncode == 2
        assert "another process is working in this run folder" in refused.stderr

        nodes.processes[0].kill()
        nodes.until(lambda: nodes.said().count("of 2: ranks") == 2, 60)
        steps(7)

        hosts[3].cut_off()
        nodes.until(lambda: nodes.said().count("of 1: ranks") == 1, 90)
        steps(3)
        assert "no longer answers: no rank runs here until it does" in nodes.said()

        hosts[3].back()
        nodes.until(lambda: nodes.said().count("of 2: ranks") == 4, 90)
        steps(3)
        nodes.start(0)
        nodes.until(lambda: nodes.said().count("of 3: ranks") == 6, 90)
        steps(3)
        for process in nodes.processes.values():
            process.send_signal(signal.SIGTERM)
        assert [nodes.ended(node)[0] for node in range(3)] == [130] * 3, nodes.said()

    total = max(losses(run)) + 2
    assert groundup_json("train", *words, *duration(total))["step"] == total
    groundup_json("train", recipe_file, "--run-dir", tmp_path / "one", *SETTINGS, *duration(total))
    found = losses(run)
    assert sorted(found) == list(range(1, total + 1))
    assert found == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    samples = {row["step"]: row["samples_consumed"] for row in rows(run)}
    assert samples == {row["step"]: row["samples_consumed"] for row in rows(tmp_path / "one")}
    # For the sake of a node that joins nothing is computed again.
    assert worlds(run)[-1] == max(worlds(run))


@pytest.mark.slow
def test_a_node_that_is_asked_to_stop_leaves_and_the_others_go_on(
    hosts: list[Host], recipe_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = (recipe_file, "--run-dir", run, *SETTINGS)
    groundup_json("prepare", *words)
    with Nodes(hosts, (*words, *SLOW, *duration(40)), tmp_path) as nodes:
        nodes.start(0)
        nodes.start(1)
        nodes.until(lambda: nodes.said().count("of 2: ranks") == 2, 90)
        nodes.until(lambda: len(rows(run)) >= 3, 60)
        nodes.processes[0].send_signal(signal.SIGTERM)
        code, document = nodes.ended(0)
        assert (code, "stopped by SIGTERM at step" in document["error"]["what"]) == (130, True), nodes.said()
        nodes.start(2, "1:2")
        code, document = nodes.ended(2)
        assert (code, "--nodes 1:2, theirs 1:3" in document["error"]["what"]) == (2, True)
        code, document = nodes.ended(1)
        assert (code, document["step"]) == (0, 40), nodes.said()
        assert len(rows(run)) == 40  # saved before, so that no step is computed twice
        # What is done is done for whoever comes late.
        nodes.start(2)
        assert nodes.ended(2) == (0, document)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--nodes", "1:2"), "need a place to meet"),
        (("--nodes", "1:2", "--rendezvous", "a:1", "--node-rank", 0), "nodes that come and go have no numbers"),
        (("--nodes", "2:1", "--rendezvous", "a:1"), "'2:1' is neither a number of nodes above 0 nor MIN:MAX"),
        (("--nodes", "0:2", "--rendezvous", "a:1"), "'0:2' is neither"),
        (("--nodes", "1:2", "--rendezvous", "a:1", "--restart"), "nodes that come and go only go on"),
        (
            ("--nodes", "1:3", "--rendezvous", "a:1", "--set", "parallel.tensor=2"),
            "the layout must be possible on every number of nodes from 1 to 3, and is not on 1",
        ),
        (("--nodes", "1:2", "--rendezvous", "a:1"), "this recipe's data is not prepared here"),
    ],
)
def test_what_elastic_runs_need_is_told(
    options: tuple[object, ...], told: str, recipe_file: Path, tmp_path: Path
) -> None:
    done = groundup("train", recipe_file, "--run-dir", tmp_path / "run", *options)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
