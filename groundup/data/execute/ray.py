"""Tasks on Ray: this machine alone, or the cluster that RAY_ADDRESS names. Its nodes must share the run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.data.execute.executor import Run
from groundup.data.execute.task import Done, Task, perform
from groundup.errors import UserError


@contextmanager
def cluster(root: Path, workers: int) -> Iterator[Run]:
    """Each task takes one CPU of the cluster. `workers`: the CPUs of a cluster that is started here."""
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray isn't installed", where="--executor ray", advice="pip install 'groundup[ray]', or --executor pool"
        ) from None
    address = os.environ.get("RAY_ADDRESS")
    where: dict[str, Any] = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **where)
    remote = ray.remote(num_cpus=1, max_retries=3)(perform)

    def run(tasks: Sequence[Task]) -> Iterator[Done]:
        waiting = [remote.remote(task, root) for task in tasks]
        while waiting:
            ready, waiting = ray.wait(waiting)
            try:
                yield from ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                # What the task raised, not Ray's account of it.
                raise error.cause from None

    try:
        yield run
    finally:
        ray.shutdown()
