"""Training across hosts: network namespaces of this machine, each with its own address and its own host name, and the
rendezvous on a host that doesn't train."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Host, network

PORT = 29400


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with network("store", "node-a", "node-b") as found:
        yield found


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["kind"] == "train"]


class Hosts:
    """Two hosts that train, and one with the rendezvous, which serves one run after another."""

    def __init__(self, hosts: list[Host], folder: Path) -> None:
        self.rendezvous, *self.nodes = hosts
        self.folder = folder
        own = ("--host", self.rendezvous.address, "--port", PORT)
        self.store = self.rendezvous.start("rendezvous", *own, log=folder / "store.log")
        self.started = [self.store]

    def train(self, *words: object, nproc: tuple[int, int] = (1, 1)) -> list[subprocess.Popen[str]]:
        """`groundup train` on both nodes."""
        place = ("--nodes", 2, "--rendezvous", f"{self.rendezvous.address}:{PORT}")
        started = [
            host.start(
                "train", *words, *place, "--node-rank", rank, "--nproc", nproc[rank], "--json", log=self.log(rank)
            )
            for rank, host in enumerate(self.nodes)
        ]
        self.started += started
        return started

    def log(self, rank: int) -> Path:
        return self.folder / f"{self.nodes[rank].name}.log"

    def results(self, started: list[subprocess.Popen[str]], code: int) -> list[dict[str, Any]]:
        """What each node printed; all must end with this exit code."""
        documents = []
        for rank, node in enumerate(started):
            out, _ = node.communicate(timeout=200)
            assert node.returncode == code, self.log(rank).read_text()
            documents.append(json.loads(out))
        return documents

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_two_hosts_train_to_the_losses_of_one_process(
    hosts: list[Host], finished_run: tuple[Path, dict[str, Any]], recipe_file: Path, tmp_path: Path
) -> None:
    words = (recipe_file, "--run-dir", tmp_path / "two", "--set", "parallel.shard=2")
    with Hosts(hosts, tmp_path) as both:
        first, second = both.results(both.train(*words), 0)
        assert first["step"] == second["step"] == 12
        one, two = losses(finished_run[0]), losses(tmp_path / "two")
        assert len(one) == 12
        assert two == pytest.approx(one, rel=1e-4)
        assert (tmp_path / "two" / "logs" / "rank-1.log").exists()
        # A run that is up to date ends on every node.
        assert both.results(both.train(*words), 0) == [first, {}]
        both.store.send_signal(signal.SIGINT)
        assert both.store.wait(10) == 0


def test_nodes_that_differ_are_told(hosts: list[Host], recipe_file: Path, tmp_path: Path) -> None:
    with Hosts(hosts, tmp_path) as both:
        for document in both.results(both.train(recipe_file, "--run-dir", tmp_path / "run", nproc=(1, 2)), 2):
            assert "it has 2 processes, node 0 has 1" in document["error"]["what"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "seconds", "told"),
    [
        ("node", 45, "node 1 gives no sign of life"),
        ("rendezvous", 15, "the rendezvous at 10.77.0.1:29400 no longer answers"),
    ],
)
def test_a_host_that_is_lost_ends_the_job(
    lost: str, seconds: float, told: str, hosts: list[Host], recipe_file: Path, tmp_path: Path
) -> None:
    words = (recipe_file, "--run-dir", tmp_path / "run", "--set", "parallel.shard=2")
    with Hosts(hosts, tmp_path) as both:
        nodes = both.train(*words, "--set", 'train.duration="100000 steps"')
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 100
        while not (metrics.exists() and '"step": 2' in metrics.read_text()):
            assert time.monotonic() < deadline, both.log(0).read_text()
            time.sleep(0.2)
        start = time.monotonic()
        if lost == "node":
            hosts[2].cut_off()
        else:
            both.store.kill()
        (document,) = both.results(nodes[:1], 1)
        assert told in document["error"]["what"]
        assert time.monotonic() - start < seconds
