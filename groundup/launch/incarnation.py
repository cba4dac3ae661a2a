"""One start of this node's workers, in one generation of the run: ranks, signs of life, and how it ends.

The agent is torchrun's own, with its c10d rendezvous. What is added: node ranks as given where they are, signals that
let workers save, one verdict for all nodes when a rank fails, and an eye on nodes that come and go.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed.distributed_c10d import Store
from torch.distributed.elastic.agent.server.api import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events.api import Event, EventSource
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SubprocessContext

from groundup.console import say
from groundup.errors import EXIT_INTERRUPTED
from groundup.launch.failure import Report, death, first
from groundup.launch.generations import Generations
from groundup.launch.processes import Processes
from groundup.launch.signals import Forwarding
from groundup.launch.worker import STOP_SIGNALS, WorkerJob, log_file, report_file

MONITOR_SECONDS = 0.2
GRACE_SECONDS = 3.0  # how long the cause of a broken connection has to show itself
LOST_SECONDS = 30.0  # a node that is silent for so long is lost


class Restart(Exception):
    """The workers are to be started anew: after a failure, the `number`-th without progress, or for nodes that come or
    go (`failure` None)."""

    def __init__(self, failure: Report | None, number: int = 0) -> None:
        super().__init__()
        self.failure, self.number = failure, number


class Ended(Exception):
    """The run has ended, and not with a result."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


class Streams(LogsSpecs):
    """Rank 0 writes to the terminal, every other rank to its log. Also the place where torchrun lets a worker's
    environment be added to."""

    def __init__(self, logs: Path, environment: dict[str, str], generation: int) -> None:
        super().__init__(str(logs))
        self.logs, self.environment, self.generation = logs, environment, generation

    @property
    def root_log_dir(self) -> str:
        return str(self.logs)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        for environment in envs.values():
            environment.update(self.environment)
        ranks = {local_rank: int(environment["RANK"]) for local_rank, environment in envs.items()}
        errors = {local: str(self._fresh(log_file(self.logs, rank))) if rank else "" for local, rank in ranks.items()}
        return LogsDest(stdouts=dict.fromkeys(envs, ""), stderrs=errors, error_files=dict.fromkeys(envs, os.devnull))

    def _fresh(self, log: Path) -> Path:
        """What a rank said in the generation before is kept: it may say why that one ended."""
        if self.generation and log.exists():
            log.replace(log.with_suffix(f".before-start-{self.generation}.log"))
        return log


class Incarnation(LocalElasticAgent):
    """The agent of this node in one generation. `node` and `nodes`: this node's rank in it, and how many there are.

    `run` raises Restart or Ended where the workers don't come to a result.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        streams: Streams,
        job: WorkerJob,
        processes: Processes,
        stop: Forwarding,
        generations: Generations,
        max_restarts: int,
        progress: Callable[[], str],
    ) -> None:
        super().__init__(spec, streams)
        self.job, self.processes, self.stop, self.generations = job, processes, stop, generations
        self.generation, self.max_restarts, self.progress = streams.generation, max_restarts, progress
        self.node, self.nodes = processes.node_rank, processes.nodes
        self.folder = Path(job.folder)
        self.alive: dict[int, tuple[bytes, float]] = {}  # of other nodes: what they said last, and when
        self.looked = 0.0

    def _construct_event(self, state: str, source: EventSource, *_: Any, **__: Any) -> Event:
        """Events go nowhere; making them as torchrun does would look up this host's name, which may take seconds."""
        return Event(f"torchelastic.worker.status.{state}", source=source)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        super()._rendezvous(worker_group)
        store = self._agreed
        if self.node == 0:
            store.set("incarnation", uuid.uuid4().hex)
        self.job = WorkerJob(**{**vars(self.job), "prefix": f"groundup/{store.get('incarnation').decode()}"})
        self._beat()

    def _assign_worker_ranks(
        self, store: Store, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Worker]:
        """Ranks by the node ranks as given, where they are. The rendezvous numbers nodes by their addresses."""
        local = self.processes.local
        if self.processes.elastic:
            self.node, self.nodes = group_rank, group_world_size
            self.stop.quiet = self.node == 0
            say(f"node {self.node} of {self.nodes}: ranks {self.node * local} to {(self.node + 1) * local - 1}")
        base, world = self.node * local, self.nodes * local
        return [Worker(i, base + i, base + i, world, world) for i in range(local)]

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.stop.stage = "starting"
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # or torchrun's handlers take the place of ours
        self.job.write(self.folder / "job.json")
        found: dict[int, Any] = super()._start_workers(worker_group)
        self.stop.started(list(found.values()))
        return found

    def _invoke_run(self, role: str = "") -> RunResult:
        self._initialize_workers(self._worker_group)
        while True:
            time.sleep(MONITOR_SECONDS)
            codes = self._codes()
            if any(codes.values()):
                self._failed()
            elif None not in codes.values():
                break
            self._look_at_others()
        if not self.processes.elastic:
            self._wait_for_others()
        self._leave_if_stopped()
        results = {worker.global_rank: None for worker in self._worker_group.workers}
        return RunResult(WorkerState.SUCCEEDED, return_values=results)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGKILL, timeout: int = 30) -> None:
        """Workers that still run can't save: a rank is gone, or the agent is. And they don't hear SIGTERM."""
        self.stop.kill()
        super()._shutdown(signal.SIGKILL, timeout)

    def _codes(self) -> dict[int, int | None]:
        """Exit codes of this node's workers by local rank; None of those that run."""
        assert isinstance(self._pcontext, SubprocessContext)
        return {local: handler.proc.poll() for local, handler in self._pcontext.subprocess_handlers.items()}

    def _failures(self) -> list[Report]:
        """Reports of this node's workers that ended badly."""
        found = []
        for local_rank, code in self._codes().items():
            if code:
                rank = self.node * self.processes.local + local_rank
                report = self.report(local_rank) or death(rank, code, str(log_file(Path(self.job.logs), rank)))
                signals = (*STOP_SIGNALS, *STOP_SIGNALS.values())
                stopped = code in (EXIT_INTERRUPTED, *(-number for number in signals))
                if (self.stop.asked or self.stop.paused) and (stopped or report.secondary):
                    what = self.stop.asked or "a change of nodes"
                    report.kind, report.what = "interrupted", f"stopped by {what} outside training"
                found.append(report)
        return found

    def report(self, local_rank: int) -> Report | None:
        """What a worker left behind; None where it left nothing."""
        try:
            return Report(**json.loads(report_file(self.folder, local_rank).read_bytes()))
        except FileNotFoundError:
            return None

    def _failed(self) -> None:
        """A worker ended badly: once the cause is known, this generation is over."""
        reports = self._failures()
        deadline = time.monotonic() + GRACE_SECONDS
        while first(reports).secondary and time.monotonic() < deadline:
            time.sleep(MONITOR_SECONDS)
            reports = self._failures()
        cause = first(reports)
        late = cause.kind == "superseded" and self._moved()  # by the same run's next generation
        if late or (self.stop.paused and all(report.kind == "interrupted" for report in reports)):
            raise Restart(None)
        self._conclude(cause)

    def _conclude(self, here: Report | None) -> None:
        """End this node's workers; raise what is to come: after the failure of this node, or of another that had a
        cause of its own."""
        store = self._agreed
        if here is not None:
            store.set(f"verdict/{self.node}", json.dumps(here.as_dict(), default=str))
            if store.add("reports", 1) == 1:
                store.set("number", str(self.generations.failures(self.progress())))
            store.set("failed", "")
        verdicts = [here] if here is not None else []
        deadline = time.monotonic() + GRACE_SECONDS
        while self.nodes > 1 and (not verdicts or first(verdicts).secondary) and time.monotonic() < deadline:
            time.sleep(MONITOR_SECONDS)
            keys = [f"verdict/{node}" for node in range(self.nodes)]
            verdicts = [Report(**json.loads(store.get(key))) for key in keys if store.check([key])]
        self.stop.kill()
        verdict = first(verdicts)
        number = int(store.get("number"))
        lost = verdict.kind == "lost" and not self.processes.elastic
        if not verdict.passing or lost or self.stop.asked or number > self.max_restarts:
            raise Ended(verdict)
        raise Restart(verdict, number)

    def _leave_if_stopped(self) -> None:
        """Raise where the workers saved and left before the end: because of this node, of others, or of themselves."""
        reports = [report for local in range(self.processes.local) if (report := self.report(local)) is not None]
        stopped = [report for report in reports if report.kind == "interrupted"]
        deadline = time.monotonic() + (GRACE_SECONDS if self.processes.elastic and not self.stop.asked else 0)
        while stopped and time.monotonic() < deadline:
            if self.stop.paused or self._moved():
                raise Restart(None)
            time.sleep(MONITOR_SECONDS)
        if stopped:
            raise Ended(stopped[0])

    def _moved(self) -> bool:
        """Whether the nodes of an elastic run went on to the next generation."""
        return self.processes.elastic and self.generations.current() != self.generation

    def _beat(self) -> None:
        self._agreed.set(f"alive/{self.node}", str(time.monotonic()))

    def _look_at_others(self) -> None:
        """Once a second: end where another node failed, or is silent for LOST_SECONDS; pause where nodes come or go."""
        now = time.monotonic()
        if (self.nodes == 1 and not self.processes.elastic) or now - self.looked < 1:
            return
        self.looked = now
        if self._agreed.check(["failed"]):
            self._conclude(None)
        self._beat()
        for node in range(self.nodes):
            if node == self.node:
                continue
            key = f"alive/{node}"
            said = self._agreed.get(key) if self._agreed.check([key]) else b""
            before, since = self.alive.get(node, (None, now))
            self.alive[node] = (said, now if said != before else since)
            if now - self.alive[node][1] > LOST_SECONDS:
                self._conclude(Report("lost", -1, what=f"node {node} gives no sign of life for {LOST_SECONDS:.0f} s"))
        if self.processes.elastic and not self.stop.paused:
            waiting = self._rdzv_handler.num_nodes_waiting()
            if waiting:
                say(f"{waiting} more nodes: ranks save, and start anew with them")
                self.generations.leave(self.generation)
            if waiting or self._moved():
                self.stop.pause()

    def _wait_for_others(self) -> None:
        """Until the workers of all nodes are done. Waiting in short steps leaves Ctrl-C its effect."""
        self.stop.stage = "waiting"
        self._agreed.add("finished", 1)
        while self._agreed.add("finished", 0) < self.nodes:
            self._look_at_others()
            time.sleep(MONITOR_SECONDS)

    @property
    def _agreed(self) -> Store:
        """The store of this round of the rendezvous."""
        assert self._store is not None
        return self._store
