"""A small corpus, a small recipe, and one finished run that tests share."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.forks import forks

WORDS = (Path(__file__).parent / "words.txt").read_text().split()

RECIPE = """\
name = "small"
seed = 7

[data]
sources = [{{ path = "{corpus}" }}]
validation_fraction = 0.2

[tokenizer]
vocab_size = 300

[model]
hidden_size = 32
layers = 2
heads = 2
ffn_size = 64
context_length = 128

[optim]
lr = 0.01
warmup = "2 steps"
precision = "fp32"

[train]
duration = "12 steps"
batch_tokens = 512
sequence_length = 64
micro_batch = 4
log_every = 1
threads = 1
trackers = []

[sampling]
prompts = ["the river"]
max_new_tokens = 8

[tune]
trials = 1
range_test = false
search."optim.lr" = {{ low = 1e-3, high = 1e-2, log = true }}
"""


def sentences(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return "\n".join(" ".join(rng.choices(WORDS, k=rng.randint(4, 12))).capitalize() + "." for _ in range(count))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents as JSON lines, two of them the same."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = [sentences(seed, 12) for seed in range(59)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, texts[3]]))
    return path


@pytest.fixture(scope="session")
def recipe_text(corpus: Path) -> str:
    return RECIPE.format(corpus=corpus)


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(recipe_text)
    return path


def groundup(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command line in a process of its own, whose libraries are loaded already."""
    words = [str(word) for word in arguments]
    return forks().run(words, cwd or Path.cwd(), {**os.environ, "COLUMNS": "100", **environment}, timeout=300)


def groundup_json(*arguments: object, **environment: str) -> dict[str, Any]:
    """What `--json` printed; the command must have succeeded and printed nothing else."""
    done = groundup(*arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of `groundup serve RUN`."""
    command = [sys.executable, "-m", "groundup", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + process.stderr.read()
            yield found.group()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real Chromium. Without one tests are skipped, but not in CI."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None and os.environ.get("CI"):
        pytest.fail("CI must have a browser", pytrace=False)
    if chromium is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*quiet, "--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, recipe_text: str) -> tuple[Path, dict[str, Any]]:
    """The small recipe's run folder after `groundup run`, and what the command printed. Don't change it."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "small.toml"
    recipe.write_text(recipe_text)
    return folder / "run", groundup_json("run", recipe, "--run-dir", folder / "run")


@contextmanager
def watched_page(browser: Any, allowed: str) -> Iterator[Any]:
    """A page that must log no error, and fetch nothing but addresses that begin like the expression `allowed`."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if re.match(allowed, r.url) else problems.append(r.url))
    yield page
    page.close()
    assert problems == getattr(page, "expected_problems", [])
