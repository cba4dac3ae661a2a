"""What workers do in the tests of launching, and the launch that has them do it: `python -m tests.launch_work`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from groundup.console import clean_stdout, say
from groundup.errors import UserError
from groundup.train.signals import StopRequest


def total(arguments: dict[str, Any]) -> dict[str, Any]:
    """The sum over ranks of their numbers, and what a rank finds around it."""
    print("printed by a worker")
    say(f"said by rank {distributed.get_rank()}")
    one = torch.tensor(float(distributed.get_rank()))
    distributed.all_reduce(one)
    return {
        "sum": one.item(),
        "rank": distributed.get_rank(),
        "threads": torch.get_num_threads(),
        "backend": distributed.get_backend(),
        "arguments": arguments,
    }


def fail(arguments: dict[str, Any]) -> None:
    """One rank ends in the way that is asked for, while the others wait for it."""
    distributed.barrier()
    if distributed.get_rank() == arguments["rank"]:
        match arguments["how"]:
            case "user":
                raise UserError("the table is upside down", where="table.csv:3", advice="Turn it round")
            case "fault":
                raise ValueError("no such axis")
            case "exit":
                os._exit(7)
            case name:
                os.kill(os.getpid(), signal.Signals[name])
    distributed.all_reduce(torch.zeros(1))


def steps(arguments: dict[str, Any]) -> dict[str, Any]:
    """Steps until a signal asks to stop, which ranks agree on; then a save that takes its time."""
    from groundup.errors import Interrupted
    from groundup.heartbeat import beat

    rank = distributed.get_rank()
    with StopRequest() as stop:
        Path(arguments["folder"], f"started-{rank}").write_text(str(os.getpid()))
        while True:
            time.sleep(0.05)
            asked = torch.tensor(float(bool(stop)))
            distributed.all_reduce(asked)
            beat()
            if asked:
                break
        time.sleep(1)
        Path(arguments["folder"], f"saved-{rank}").touch()
        raise Interrupted(f"stopped by {stop.asked or 'another'}; saved")


def hang(arguments: dict[str, Any]) -> None:
    """Rank 1 sleeps where the others reduce."""
    from groundup.heartbeat import beat

    for _ in range(3):
        distributed.all_reduce(torch.zeros(1))
        beat()
    if distributed.get_rank() == 1:
        time.sleep(600)
    distributed.all_reduce(torch.zeros(1))  # hang


def advance(arguments: dict[str, Any]) -> dict[str, Any]:
    """Progress, then a failure, until there were so many."""
    distributed.barrier()
    attempts = Path(arguments["folder"], "progress")
    number = int(attempts.read_text()) + 1 if attempts.exists() else 1
    distributed.barrier()
    if distributed.get_rank() == 0:
        attempts.write_text(str(number))
        if number <= arguments["failures"]:
            raise ValueError("so far and no further")
    distributed.barrier()
    return {"attempts": number}


def hang_once(arguments: dict[str, Any]) -> dict[str, Any]:
    """The first time rank 1 sleeps where the others reduce."""
    from groundup.heartbeat import beat

    distributed.all_reduce(torch.zeros(1))
    beat()
    marker = Path(arguments["marker"])
    if distributed.get_rank() == 1 and not marker.exists():
        marker.touch()
        time.sleep(500)
    distributed.all_reduce(torch.zeros(1))
    return {"rank": distributed.get_rank()}


def main() -> None:
    """Launch the work that the JSON in the first argument describes, and end as the command line would."""
    from groundup.command import fail
    from groundup.launch.agent import Job, launch
    from groundup.launch.processes import Processes

    told = json.loads(sys.argv[1])
    options = told.get("job", {})
    if "progress" in told:
        progress = Path(told["progress"])
        options["progress"] = lambda: progress.read_text() if progress.exists() else ""
    job = Job(f"tests.launch_work:{told['work']}", told.get("arguments", {}), Path(told["logs"]), **options)
    with clean_stdout() as out:
        try:
            print(json.dumps(launch(job, Processes(**told["processes"]), told.get("run_id", ""))), file=out)
            code = 0
        except (Exception, KeyboardInterrupt) as error:
            code = fail(error, True, out, told.get("debug", False))
    sys.exit(code)


if __name__ == "__main__":
    main()
