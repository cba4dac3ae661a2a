"""The command line in processes that begin with its libraries loaded: a server that has imported them forks one per
command. Loading torch takes longer than most of what tests have commands do.

What runs is `groundup.cli.main` in a process of its own, with its own arguments, folder, environment and streams. Tests
that kill commands, or look at how they start, run `python -m groundup` instead.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = (
    "groundup.course",
    "groundup.data.prepare",
    "groundup.data.table.prepare",
    "groundup.data.stages.near",
    "groundup.deploy.classifier_step",
    "groundup.deploy.step",
    "groundup.evaluate.step",
    "groundup.launch.train",
    "groundup.report.page",
    "groundup.train.train",
)


class Forks:
    """The server, and the way to it."""

    def __init__(self) -> None:
        self.here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with there:
            command = [sys.executable, "-m", "tests.forks", str(there.fileno())]
            self.server = subprocess.Popen(
                command, pass_fds=[there.fileno()], cwd=Path(__file__).parents[1], stdin=subprocess.DEVNULL
            )
        atexit.register(self.close)

    def close(self) -> None:
        self.here.close()
        self.server.wait(10)

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """`groundup ARGUMENTS`. Raises subprocess.TimeoutExpired."""
        request = json.dumps({"arguments": arguments, "folder": str(folder), "environment": dict(environment)})
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            socket.send_fds(self.here, [request.encode() + b"\n"], [out.fileno(), errors.fileno()])
            started = int(self._line())
            self.here.settimeout(timeout)
            try:
                code = int(self._line())
            except TimeoutError:
                os.killpg(started, signal.SIGKILL)
                self.here.settimeout(None)
                self._line()
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            self.here.settimeout(None)
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(list(arguments), code, out.read(), errors.read())

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            part = self.here.recv(1)
            if not part:
                raise RuntimeError("the server of forks has ended")
            line += part
        return line


@cache
def forks() -> Forks:
    """This process's server."""
    return Forks()


def serve(there: socket.socket) -> None:
    """Fork a process per request, one at a time; tell its id, and then its exit code, until the other side closes."""
    for library in LIBRARIES:
        importlib.import_module(library)
    buffer, streams = b"", []
    while True:
        data, found, _, _ = socket.recv_fds(there, 1 << 20, 2)
        if not data:
            return
        buffer, streams = buffer + data, [*streams, *found]
        if not buffer.endswith(b"\n"):
            continue
        child = os.fork()
        if child == 0:
            there.close()
            command(json.loads(buffer), *streams)
        for stream in streams:
            os.close(stream)
        buffer, streams = b"", []
        there.sendall(b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        there.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def command(request: dict[str, Any], out: int, errors: int) -> None:
    """Be the command; does not return."""
    from groundup import faults
    from groundup.cli import main

    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(errors, 2)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        importlib.reload(faults)  # it reads the environment when it is loaded
        sys.argv = ["groundup", *request["arguments"]]
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
