"""Tasks on Ray: this machine alone, or the cluster that RAY_ADDRESS names. Its nodes must share the run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from groundup.data.execute.task import Done, Run, Task, perform
from groundup.errors import UserError


@contextmanager
def cluster(root: Path, workers: int) -> Iterator[Run]:
    """Each task takes one CPU of the cluster. `workers`: how many run at once, and the CPUs of a cluster that starts
    here. Raises RuntimeError where Ray loses a task and can't do it again."""
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
        left = iter(tasks)
        waiting = [remote.remote(task, root) for task in islice(left, workers)]
        while waiting:
            ready, waiting = ray.wait(waiting)
            waiting += [remote.remote(task, root) for task in islice(left, len(ready))]
            try:
                yield from ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                # What the task raised, not Ray's account of it.
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise RuntimeError(
                    f"Ray lost a task of the data step: {error}. What was finished is kept: the same command goes on "
                    "from there; where memory ran out, lower data.workers"
                ) from error

    try:
        yield run
    finally:
        ray.shutdown()
