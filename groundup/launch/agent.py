"""One agent per node: it starts this node's workers, passes signals on, and ends the job when a rank fails.

The agent is torchrun's own, with its c10d rendezvous. What is added: node ranks as given, signals that let workers
save, and one verdict for all nodes when a rank fails.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistNetworkError  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store
from torch.distributed.elastic.agent.server.api import RunResult, Worker, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events.api import Event, EventSource
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SubprocessContext
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from groundup.errors import EXIT_INTERRUPTED, UserError
from groundup.launch.failure import RankFailed, Report, death, first
from groundup.launch.processes import Processes, endpoint
from groundup.launch.rendezvous import interface, local_address, serve
from groundup.launch.signals import Forwarding
from groundup.launch.worker import STOP_SIGNALS, WorkerJob, log_file, report_file

MONITOR_SECONDS = 0.2
GRACE_SECONDS = 3.0  # how long the cause of a broken connection has to show itself
LOST_SECONDS = 30.0  # a node that is silent for so long is lost
JOIN_SECONDS = 600


@dataclass(frozen=True)
class Job:
    """What the workers are to do. `work`: MODULE:NAME of a function that takes `arguments` and returns JSON."""

    work: str
    arguments: dict[str, Any]
    logs: Path
    threads: int | None = None  # of each worker; None: its share of the cores
    device: str = "auto"  # auto, cpu or cuda
    hang_timeout: float = 600.0


class _Streams(LogsSpecs):
    """Rank 0 writes to the terminal, every other rank to its log. Also the place where torchrun lets a worker's
    environment be added to."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        super().__init__(str(logs))
        self.logs, self.environment = logs, environment

    @property
    def root_log_dir(self) -> str:
        return str(self.logs)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        for environment in envs.values():
            environment.update(self.environment)
        ranks = {local_rank: int(environment["RANK"]) for local_rank, environment in envs.items()}
        errors = {local: str(log_file(self.logs, rank)) if rank else "" for local, rank in ranks.items()}
        return LogsDest(stdouts=dict.fromkeys(envs, ""), stderrs=errors, error_files=dict.fromkeys(envs, os.devnull))


class _Agent(LocalElasticAgent):
    """The agent of this node. What ends the job is raised out of `run`."""

    def __init__(self, spec: WorkerSpec, streams: _Streams, job: WorkerJob, processes: Processes, stop: Forwarding):
        super().__init__(spec, streams)
        self.job, self.processes, self.stop = job, processes, stop
        self.folder = Path(job.folder)
        self.alive: dict[int, tuple[bytes, float]] = {}  # of other nodes: what they said last, and when
        self.looked = 0.0

    def _construct_event(self, state: str, source: EventSource, *_: Any, **__: Any) -> Event:
        """Events go nowhere; making them as torchrun does would look up this host's name, which may take seconds."""
        return Event(f"torchelastic.worker.status.{state}", source=source)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        super()._rendezvous(worker_group)
        store = self._agreed
        if self.processes.node_rank == 0:
            store.set("incarnation", uuid.uuid4().hex)
        self.job = WorkerJob(**{**vars(self.job), "prefix": f"groundup/{store.get('incarnation').decode()}"})
        self._beat()

    def _assign_worker_ranks(
        self, store: Store, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Worker]:
        """Ranks by the node ranks as given. The rendezvous numbers nodes by their addresses."""
        local, world = self.processes.local, self.processes.world
        base = self.processes.node_rank * local
        return [Worker(i, base + i, base + i, world, world) for i in range(local)]

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.stop.stage = "starting"
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # or torchrun's handlers take the place of ours
        self.job.write(self.folder / "job.json")
        found: dict[int, Any] = super()._start_workers(worker_group)
        self.stop.started(list(found.values()))
        return found

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        reports = self._failures()
        if reports:
            deadline = time.monotonic() + GRACE_SECONDS
            while first(reports).secondary and time.monotonic() < deadline:
                time.sleep(MONITOR_SECONDS)
                reports = self._failures()
            self._conclude(first(reports))
        self._look_at_others()
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGKILL, timeout: int = 30) -> None:
        """Workers that still run can't save: a rank is gone, or the agent is. And they don't hear SIGTERM."""
        self.stop.kill()
        super()._shutdown(signal.SIGKILL, timeout)

    def _failures(self) -> list[Report]:
        """Reports of this node's workers that ended badly."""
        assert isinstance(self._pcontext, SubprocessContext)
        found = []
        for local_rank, handler in self._pcontext.subprocess_handlers.items():
            code = handler.proc.poll()
            if code:
                rank = self.processes.node_rank * self.processes.local + local_rank
                report = self.report(local_rank) or death(rank, code, str(log_file(Path(self.job.logs), rank)))
                stopped = code in (EXIT_INTERRUPTED, *(-number for number in STOP_SIGNALS.values()))
                if self.stop.asked and (stopped or report.secondary):
                    report.kind, report.what = "interrupted", f"stopped by {self.stop.asked} before training began"
                found.append(report)
        return found

    def report(self, local_rank: int) -> Report | None:
        """What a worker left behind; None where it left nothing."""
        try:
            return Report(**json.loads(report_file(self.folder, local_rank).read_bytes()))
        except FileNotFoundError:
            return None

    def _conclude(self, here: Report | None) -> None:
        """End this node's workers and raise the error that ended the job: of this node, or of another that had a
        cause of its own."""
        if here is not None:
            self._agreed.set(f"verdict/{self.processes.node_rank}", json.dumps(here.as_dict(), default=str))
            self._agreed.set("failed", "")
        verdicts = [here] if here is not None else []
        deadline = time.monotonic() + GRACE_SECONDS
        while self.processes.nodes > 1 and (not verdicts or first(verdicts).secondary) and time.monotonic() < deadline:
            time.sleep(MONITOR_SECONDS)
            keys = [f"verdict/{node}" for node in range(self.processes.nodes)]
            verdicts = [Report(**json.loads(self._agreed.get(key))) for key in keys if self._agreed.check([key])]
        self.stop.kill()
        raise first(verdicts).error()

    def _beat(self) -> None:
        self._agreed.set(f"alive/{self.processes.node_rank}", str(time.monotonic()))

    def _look_at_others(self) -> None:
        """Once a second: end where another node failed, or is silent for LOST_SECONDS."""
        now = time.monotonic()
        if self.processes.nodes == 1 or now - self.looked < 1:
            return
        self.looked = now
        if self._agreed.check(["failed"]):
            self._conclude(None)
        self._beat()
        others = [node for node in range(self.processes.nodes) if node != self.processes.node_rank]
        for node, said in zip(others, self._agreed.multi_get([f"alive/{node}" for node in others]), strict=True):
            before, since = self.alive.get(node, (b"", now))
            self.alive[node] = (said, now if said != before else since)
            if now - self.alive[node][1] > LOST_SECONDS:
                self._conclude(Report("lost", -1, what=f"node {node} gives no sign of life for {LOST_SECONDS:.0f} s"))

    def _exit_barrier(self) -> None:
        """Wait until the workers of all nodes are done. Waiting in short steps leaves Ctrl-C its effect."""
        self.stop.stage = "waiting"
        self._agreed.add("finished", 1)
        while self._agreed.add("finished", 0) < self.processes.nodes:
            self._look_at_others()
            time.sleep(MONITOR_SECONDS)

    @property
    def _agreed(self) -> Store:
        """The store of this round of the rendezvous."""
        assert self._store is not None
        return self._store


def launch(job: Job, processes: Processes, run_id: str = "") -> Any:
    """Run the job on all processes; what rank 0 returned, or on other nodes what their first rank did.

    `run_id`: the same on every node, and no earlier run's. Raises what the first rank to fail raised where that was
    UserError, RankFailed otherwise, and Interrupted where a signal asked to stop.
    """
    logging.getLogger("torch.distributed.elastic").addHandler(logging.NullHandler())
    logging.getLogger("torch.distributed.elastic").propagate = False
    cuda = _uses_cuda(job.device, processes.local)
    server = None
    if processes.nodes > 1:
        host, port = endpoint(processes.rendezvous)
    else:
        server = serve("127.0.0.1", 0)
        host, port = "127.0.0.1", server.port
    address = local_address(host, port)
    job.logs.mkdir(parents=True, exist_ok=True)
    threads = job.threads or max(1, len(os.sched_getaffinity(0)) // processes.local)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    network = os.environ.get("GLOO_SOCKET_IFNAME") or interface(address)
    if network:
        environment["GLOO_SOCKET_IFNAME"] = network
    folder = Path(tempfile.mkdtemp(prefix="groundup-"))
    parameters = RendezvousParameters(
        backend="c10d",
        endpoint=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        run_id=run_id or uuid.uuid4().hex,
        min_nodes=processes.nodes,
        max_nodes=processes.nodes,
        local_addr=address,
        is_host=False,
        join_timeout=JOIN_SECONDS,
        # Clocks of nodes may differ: a node counts as lost only once it is silent for two minutes.
        keep_alive_max_attempt=24,
    )
    worker_job = WorkerJob(
        job.work, job.arguments, str(folder), str(job.logs), os.getpid(), (host, port), "", cuda, job.hang_timeout
    )
    with Forwarding(quiet=processes.node_rank == 0) as stop:
        try:
            handler = get_rendezvous_handler(parameters)
            spec = WorkerSpec(
                role="train",
                local_world_size=processes.local,
                rdzv_handler=handler,
                entrypoint=sys.executable,
                args=("-m", "groundup.launch.worker", str(folder / "job.json")),
                max_restarts=0,
                monitor_interval=MONITOR_SECONDS,
                master_addr=host,
                master_port=port,
                local_addr=address,
                event_log_handler="null",
            )
            agent = _Agent(spec, _Streams(job.logs, environment), worker_job, processes, stop)
            try:
                agent.run()
            finally:
                handler.shutdown()
            return _result([agent.report(local_rank) for local_rank in range(processes.local)])
        except (DistNetworkError, RendezvousConnectionError) as error:
            raise RankFailed(f"the rendezvous at {host}:{port} no longer answers") from error
        except RendezvousTimeoutError as error:
            raise RankFailed(f"not all of {processes.nodes} nodes came within {JOIN_SECONDS} s") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _result(reports: list[Report | None]) -> Any:
    """What the node's first rank returned. Raises Interrupted where ranks were stopped."""
    for report in reports:
        assert report is not None, "a worker ended well and left no report"
        if report.kind == "interrupted":
            raise report.error()
    assert reports[0] is not None
    return reports[0].value


def _uses_cuda(device: str, local: int) -> bool:
    """Whether workers use GPUs, one each. Raises UserError where there are too few."""
    if device == "cpu" or not torch.cuda.is_available():
        return False
    if torch.cuda.device_count() < local:
        raise UserError(
            f"{local} processes take a GPU each, and this node has {torch.cuda.device_count()}",
            where="--nproc",
            advice="Start fewer, or train on the CPU: --set 'train.device=\"cpu\"'",
        )
    return True
