"""What the README says is run: its recipe, its mistakes, its commands."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from groundup.recipe.load import load
from tests.conftest import groundup

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if name == language]


def test_the_two_commands_are_on_the_first_screen_and_are_targets() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    for target in ("quickstart", "test"):
        assert f"make {target}" in first_screen
        dry = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert dry.returncode == 0, dry.stderr
    assert (
        "groundup run examples/quickstart.toml"
        in subprocess.run(
            ["make", "-n", "quickstart"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout
    )


def test_the_recipe_is_good_and_the_mistakes_are_told_as_shown(tmp_path: Path) -> None:
    (recipe,) = blocks("toml")
    path = tmp_path / "mine.toml"
    path.write_text(recipe)
    assert load(path).recipe.name == "mine"
    (shown,) = [b for b in blocks() if b.startswith("$ groundup recipe check")]
    path.write_text(recipe.replace("hidden_size", "hiden_size").replace("65536", "65000"))
    done = groundup("recipe", "check", "mine.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == shown.split("\n", 1)[1]


def test_files_it_names_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


VERBS = re.findall(r"^\| `groundup ([^`]+)` \|", README, re.MULTILINE)


def test_every_verb_is_in_the_table() -> None:
    words = {verb.split()[0] for verb in VERBS}
    listed = re.findall(r"^  (\w+)  ", groundup("--help").stdout.split("Commands:")[1], re.MULTILINE)
    assert words == set(listed)


# serve and rendezvous run until they are stopped, parity and torture for minutes; they have tests of their own.
@pytest.mark.parametrize("verb", [v for v in VERBS if not v.startswith(("serve", "parity", "torture", "rendezvous"))])
def test_verbs_run_as_written(
    verb: str, recipe_file: Path, finished_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "small"
    shutil.copytree(finished_run[0], run)
    for choice in verb.partition("\\|")[0].split()[-1:] + re.findall(r"\\\|(\w+)", verb):
        words = shlex.split(verb)
        if "\\|" in verb:
            words = [words[0], choice, *(["RECIPE"] if choice != "schema" else [])]
        named = {"RECIPE": str(recipe_file), "RUN": str(run), "[FILE]": "new.toml"}
        done = groundup(*(named.get(w, w) for w in words), cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
        if "\\|" not in verb:
            break


def test_serve_as_written(finished_run: tuple[Path, dict[str, Any]]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "groundup", "serve", str(finished_run[0]), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = ""
        started = time.monotonic()
        while "http://" not in line:
            line = process.stderr.readline()
            assert line or process.poll() is None
            assert time.monotonic() - started < 60
        address = re.search(r"http://[\d.:]+", line)
        assert address is not None
        with httpx.Client(base_url=address.group(), timeout=30) as client:
            assert client.get("/health").json()["status"] == "ok"
            assert "<html" in client.get("/").text
            answer = client.post("/v1/completions", json={"prompt": "the river", "max_tokens": 5}).json()
            assert answer["usage"]["completion_tokens"] <= 5
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
