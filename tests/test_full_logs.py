"""Logs on a full disk: ranks above 0 write theirs into the run folder, and none of them ends or hangs for it."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from groundup.console import Bar
from tests.conftest import groundup
from tests.launched import ended, launched
from tests.test_training import losses


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A folder of logs in which that of rank 1 takes not a byte."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "rank-1.log").symlink_to("/dev/full")
    return folder


def test_a_line_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w")  # noqa: SIM115  what it holds back fails once more where it is closed
    with monkeypatch.context() as here, Bar("train", 10, "steps") as bar:
        here.setattr(sys, "stderr", full)
        bar.show(3, "step 3/10")
        bar.write("step 3: checkpoint")
    with suppress(OSError):
        full.close()


@pytest.mark.slow
def test_training_goes_on(recipe_file: Path, tmp_path: Path, logs: Path) -> None:
    run = tmp_path / "run"
    done = groundup("prepare", recipe_file, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    logs.rename(run / "logs")
    done = groundup("train", run, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    assert "restarting" not in done.stderr
    assert sorted(losses(run)) == list(range(1, 13))


@pytest.mark.parametrize(
    ("how", "code", "what"),
    [("user", 2, "the table is upside down"), pytest.param("fault", 1, "no such axis", marks=pytest.mark.slow)],
)
def test_a_rank_that_fails_still_says_why(tmp_path: Path, logs: Path, how: str, code: int, what: str) -> None:
    told: dict[str, Any] = {"arguments": {"rank": 1, "how": how}, "job": {"max_restarts": 0}}
    with launched("fail", logs.parent, **told) as process:
        found, _, err = ended(process)
    assert found == code, err
    assert what in err
