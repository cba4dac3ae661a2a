"""Progress as a person sees it: one live line on a terminal, plain lines elsewhere; commands as they are typed here."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading
from pathlib import Path

import pytest

from groundup.command import program
from groundup.console import Bar


def _work() -> None:
    with Bar("train", 10, "steps") as bar:
        bar.show(3, "step 3/10  loss 1.00")
        bar.write("step 3: checkpoint [saved]")
        bar.show(10, "step 10/10  loss 0.50")


def screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end."""
    lines, row = [""], 0
    for code, plain in re.findall(r"\x1b\[([0-9;?]*[A-Za-z])|([^\x1b]+)", text):
        if code.endswith("A"):
            row -= int(code[:-1])
        elif code == "2K":
            lines[row] = ""
        for part in re.split(r"(\n)", plain.replace("\r", "")):
            if part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            else:
                lines[row] += part
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_gets_one_live_line_and_lasting_ones_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as terminal, monkeypatch.context() as here:
        here.setattr(sys, "stderr", terminal)
        _work()
    reader.join(10)
    os.close(ours)
    text = shown.decode()
    assert "step 10/10  loss 0.50" in text
    assert "100%" in text
    # Each drawing of the line erases the one before; what is left in the end is the lasting line alone.
    assert screen(text) == ["step 3: checkpoint [saved]"]


def test_a_file_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    _work()
    assert capsys.readouterr().err.splitlines() == [
        "step 3/10  loss 1.00",
        "step 3: checkpoint [saved]",
        "step 10/10  loss 0.50",
    ]


def test_commands_are_told_as_they_are_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "bin"
    own.mkdir()
    for name in ("groundup", "python"):
        (own / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "argv", [".venv/bin/groundup"])
    assert program() == ".venv/bin/groundup"
    monkeypatch.setattr(sys, "argv", ["/somewhere/groundup/__main__.py"])
    assert program() == f"{own / 'python'} -m groundup"
    monkeypatch.setenv("PATH", str(own))  # an environment that is activated
    assert program() == "groundup"
