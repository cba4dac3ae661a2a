"""One agent per node: it starts this node's workers, and starts them anew when ranks or nodes are lost or come back."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed import DistError  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from groundup.console import say
from groundup.errors import UserError
from groundup.launch.failure import RankFailed, Report
from groundup.launch.generations import Generations
from groundup.launch.incarnation import MONITOR_SECONDS, Ended, Incarnation, Restart, Streams
from groundup.launch.processes import Processes, endpoint
from groundup.launch.rendezvous import connect, end_when_silent, interface, local_address, serve
from groundup.launch.signals import Forwarding
from groundup.launch.worker import WorkerJob

JOIN_SECONDS = 600  # how long nodes are waited for, and by an elastic run the rendezvous
REJOIN_SECONDS = 60  # how long nodes with fixed numbers, all of them alive, are waited for after a failure
LAST_CALL_SECONDS = 5  # how long the fewest nodes wait for more
_LOST = (DistError, RendezvousConnectionError)


@dataclass(frozen=True)
class Job:
    """What the workers are to do. `work`: MODULE:NAME of a function that takes `arguments` and returns JSON.

    `max_restarts`: how many failures in a row are followed by a new start, while `progress` says the same as before.
    `terms`: what nodes of an elastic run must have in common.
    """

    work: str
    arguments: dict[str, Any]
    logs: Path
    threads: int | None = None  # of each worker; None: its share of the cores
    device: str = "auto"  # auto, cpu or cuda
    hang_timeout: float = 600.0
    max_restarts: int = 0
    progress: Callable[[], str] = str
    terms: dict[str, Any] = field(default_factory=dict)


def launch(job: Job, processes: Processes, run_id: str = "") -> Any:
    """Run the job on all processes; what rank 0 returned, or on other nodes what their first rank did.

    `run_id`: the same on every node, and no earlier run's; of an elastic run its name. Raises what the first rank to
    fail raised where that was UserError, RankFailed otherwise, and Interrupted where a signal asked to stop.
    """
    logging.getLogger("torch.distributed.elastic").addHandler(logging.NullHandler())
    logging.getLogger("torch.distributed.elastic").propagate = False
    cuda = _uses_cuda(job.device, processes.local)
    server = None
    if processes.nodes > 1 or processes.elastic:
        host, port = endpoint(processes.rendezvous)
    else:
        server = serve("127.0.0.1", 0)
        host, port = "127.0.0.1", server.port
    job.logs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="groundup-"))
    try:
        with Forwarding(quiet=processes.node_rank == 0) as stop:
            return _Agent(job, processes, run_id or uuid.uuid4().hex, (host, port), folder, cuda, stop).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Agent:
    """This node's agent, over all generations of the run."""

    def __init__(
        self,
        job: Job,
        processes: Processes,
        run_id: str,
        place: tuple[str, int],
        folder: Path,
        cuda: bool,
        stop: Forwarding,
    ) -> None:
        self.job, self.processes, self.run_id, self.place, self.folder = job, processes, run_id, place, folder
        self.cuda, self.stop = cuda, stop
        self.generations: Generations | None = None
        self.failure: Report | None = None  # the one before the start that is being tried
        self.address = local_address(*place)
        threads = job.threads or max(1, len(os.sched_getaffinity(0)) // processes.local)
        self.environment = {
            "OMP_NUM_THREADS": str(threads),
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        }
        network = os.environ.get("GLOO_SOCKET_IFNAME") or interface(self.address)
        if network:
            self.environment["GLOO_SOCKET_IFNAME"] = network

    def run(self) -> Any:
        while True:
            self.stop.ended()
            try:
                if self.generations is None:
                    self.generations = Generations(connect(*self.place, patience=JOIN_SECONDS), self.run_id)
                return self._generation(self.generations)
            except Restart as restart:
                self.failure = restart.failure
                self._say_why(restart)
            except RendezvousClosedError:
                # The others went on to the next generation while this node waited.
                if not self.processes.elastic:
                    raise RankFailed("another node has left") from None
            except _LOST as error:
                place = "{}:{}".format(*self.place)
                if not self.processes.elastic:
                    raise RankFailed(f"the rendezvous at {place} no longer answers") from error
                say(f"the rendezvous at {place} no longer answers: no rank runs here until it does")
                self.generations = None

    def _say_why(self, restart: Restart) -> None:
        if restart.failure is None:
            say("nodes come or go: restarting from what the ranks saved")
        else:
            count = f"restart {restart.number} of {self.job.max_restarts} without a new checkpoint"
            failure = restart.failure
            broken = f"rank {failure.rank} on {failure.host}: its connection to another rank broke; log: {failure.log}"
            say(f"{broken if failure.secondary else failure.error()}; restarting from the last checkpoint ({count})")

    def _generation(self, generations: Generations) -> Any:
        """The result of this node's first rank, or of the run where it ended without this node. Raises Restart."""
        if self.processes.elastic:
            generations.agree(self.job.terms, join=True)
        number = generations.current()
        handler = self._handler(number)
        agent = self._incarnation(generations, number, handler)
        try:
            ran = agent.run()
            if ran is not None:
                report = agent.report(0)
                assert report is not None, "a worker ended well and left no report"
                generations.end(number, report)
                return report.value
        except Ended as ended:
            # Where a signal to this node is why, others may go on.
            if not (self.processes.elastic and self.stop.asked and ended.report.kind == "interrupted"):
                generations.end(number, ended.report)
            raise ended.report.error() from None
        except (Restart, RendezvousClosedError):
            before = generations.ended(number)
            if before is None:
                raise
            if before.kind != "result":
                raise before.error() from None
            return before.value
        except RendezvousTimeoutError as error:
            raise self._too_few() from error
        finally:
            with suppress(*_LOST):
                generations.leave(number)
                handler.shutdown()

    def _too_few(self) -> RankFailed:
        who = f"{self.processes.least}" if self.processes.elastic else f"all of {self.processes.nodes}"
        what = f"not {who} nodes came within {self._patience} s"
        return RankFailed(f"{self.failure.error()}; then {what}" if self.failure else what)

    @property
    def _patience(self) -> int:
        return JOIN_SECONDS if self.processes.elastic or self.failure is None else REJOIN_SECONDS

    def _handler(self, generation: int) -> RendezvousHandler:
        host, port = self.place
        parameters = RendezvousParameters(
            backend="c10d",
            endpoint=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            run_id=f"{self.run_id}.{generation}",
            min_nodes=self.processes.least or self.processes.nodes,
            max_nodes=self.processes.nodes,
            local_addr=self.address,
            is_host=False,
            join_timeout=self._patience,
            last_call_timeout=LAST_CALL_SECONDS,
            # Clocks of nodes may differ. With fixed nodes a silent one ends the run anyway; in an elastic run it is in
            # the way only where all were killed, and are started again.
            keep_alive_max_attempt=6 if self.processes.elastic else 24,
        )
        handler: RendezvousHandler = get_rendezvous_handler(parameters)
        end_when_silent(port)
        return handler

    def _incarnation(self, generations: Generations, generation: int, handler: RendezvousHandler) -> Incarnation:
        host, port = self.place
        folder = self.folder / str(generation)
        folder.mkdir(exist_ok=True)
        job = self.job
        spec = WorkerSpec(
            role="train",
            local_world_size=self.processes.local,
            rdzv_handler=handler,
            entrypoint=sys.executable,
            args=("-m", "groundup.launch.worker", str(folder / "job.json")),
            max_restarts=0,
            monitor_interval=MONITOR_SECONDS,
            master_addr=host,
            master_port=port,
            local_addr=self.address,
            event_log_handler="null",
        )
        worker_job = WorkerJob(
            job.work,
            job.arguments,
            str(folder),
            str(job.logs),
            os.getpid(),
            self.place,
            "",
            self.cuda,
            job.hang_timeout,
        )
        streams = Streams(job.logs, self.environment, generation)
        return Incarnation(
            spec, streams, worker_job, self.processes, self.stop, generations, job.max_restarts, job.progress
        )


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
