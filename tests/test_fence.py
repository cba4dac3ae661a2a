"""The fence around a run folder: an orphan that wakes up again may not write, with real processes that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.errors import Superseded
from groundup.train.fence import Fence
from tests.launched import until

WRITER = """\
import sys, time
from pathlib import Path
from groundup.command import fail
from groundup.train.fence import Fence

folder, name = Path(sys.argv[1]), sys.argv[2]
fence = Fence(folder / "fence")
fence.take()
try:
    while True:
        fence.check()
        with (folder / "metrics").open("a") as file:
            file.write(name + "\\n")
        time.sleep(0.01)
except Exception as error:
    sys.exit(fail(error, False, sys.stdout, False))
"""


def writer(folder: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name], stderr=subprocess.PIPE, text=True)


def written(folder: Path) -> list[str]:
    path = folder / "metrics"
    return path.read_text().split() if path.exists() else []


def test_an_orphan_writes_nothing_once_another_start_has_taken_over(tmp_path: Path) -> None:
    orphan = writer(tmp_path, "orphan")
    until(lambda: written(tmp_path))
    orphan.send_signal(signal.SIGSTOP)
    heir = writer(tmp_path, "heir")
    try:
        until(lambda: "heir" in written(tmp_path))
        before = written(tmp_path).count("orphan")
        orphan.send_signal(signal.SIGCONT)
        _, err = orphan.communicate(timeout=60)
        assert orphan.returncode == 1
        assert f"fault: another start of this run has taken over (process {heir.pid} on {os.uname().nodename}" in err
        # It may have been stopped between its check and its write.
        assert written(tmp_path).count("orphan") <= before + 1
        time.sleep(0.2)
        assert heir.poll() is None
    finally:
        for process in (orphan, heir):
            process.kill()
            process.communicate()


def test_only_the_last_to_take_the_fence_may_write(tmp_path: Path) -> None:
    first, second = Fence(tmp_path / "fence"), Fence(tmp_path / "fence")
    with pytest.raises(Superseded):
        first.check()
    first.take()
    first.check()
    second.take()
    second.check()
    with pytest.raises(Superseded, match="another start of this run has taken over"):
        first.check()
    (tmp_path / "fence").unlink()
    with pytest.raises(Superseded):
        second.check()
    assert list(tmp_path.iterdir()) == []  # taking it leaves nothing behind
