"""Faults that tests and `groundup torture` ask for through the environment. Nothing happens where nobody asks.

GROUNDUP_FAULTS is a JSON object:
`points`: [{"name", "action", "rank"?, "skip"?, "once"?}...]. Whoever passes the point `name`, after having passed it
    `skip` times, is killed ("kill"), kills its parent, the agent ("kill-parent"), finds the disk full ("full"), or
    waits for SECONDS ("wait:SECONDS"). `rank`: only that rank. `once`: a file that is made then; where it is there
    already, nothing happens.
`nan`: numbers of samples whose loss becomes NaN each time they are trained on.
`spike`: numbers of samples of text whose labels become token 0 each time: a spike of a trained model's gradient.
`flip`: as `nan`, but only the first time in a process: a fault that passes.
`fetched`: a folder; each process writes there which samples it was given, and a hash of them.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

_ASKED: dict[str, Any] = json.loads(os.environ.get("GROUNDUP_FAULTS", "{}"))
_passed: dict[int, int] = {}


def point(name: str) -> None:
    """A place where a fault may be asked for."""
    for number, fault in enumerate(_ASKED.get("points", ())):
        if fault["name"] != name or fault.get("rank", rank()) != rank():
            continue
        _passed[number] = _passed.get(number, 0) + 1
        if _passed[number] > fault.get("skip", 0) and _first(fault.get("once")):
            _act(fault["action"], name)


def asked(what: str) -> Any:
    """The value of a key of GROUNDUP_FAULTS; None where it is not given."""
    return _ASKED.get(what)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _first(marker: str | None) -> bool:
    if marker is None:
        return True
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _act(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "kill-parent":
        os.kill(os.getppid(), signal.SIGKILL)
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    else:
        time.sleep(float(action.removeprefix("wait:")))
