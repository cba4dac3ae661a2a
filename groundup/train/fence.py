"""Who may write into a run folder: the process that took the fence last. An orphan of an earlier start may not."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path

from groundup.errors import Superseded
from groundup.rundir import read_json, writable, write_atomically


class Fence:
    """One start of a training, and the file that says which start is the present one.

    The rank that leads takes the fence before it reads the newest checkpoint, and checks it before each write that
    others may rely on. What a process does between its check and its write is not fenced: keep that short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = ""

    def take(self) -> None:
        """From now on every earlier start is superseded. Raises UserError where the file can't be written."""
        self.token = uuid.uuid4().hex
        facts = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        with writable(self.path.parent):
            write_atomically(self.path, json.dumps({"token": self.token, **facts}))

    def check(self) -> None:
        """Raise Superseded where this start has not taken the fence, or another has taken it since."""
        found = read_json(self.path) or {}
        if self.token and found.get("token") == self.token:
            return
        by = f" (process {found['pid']} on {found['host']}, {found['time']})" if found else ""
        raise Superseded(f"another start of this run has taken over{by}; this one writes nothing more")
