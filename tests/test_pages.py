"""The report and the server's page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None and os.environ.get("CI"):
    pytest.fail("CI must have a browser", pytrace=False)
if CHROMIUM is None:
    pytest.skip("no Chromium here (Debian: apt-get install chromium)", allow_module_level=True)

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    """A page that must log no error and fetch nothing from elsewhere."""
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda r: None if re.match(r"file:|data:|http://127\.0\.0\.1:", r.url) else problems.append(r.url)
    )
    yield page
    page.close()
    assert problems == getattr(page, "expected_problems", [])


@pytest.fixture(scope="module")
def address(finished_run: tuple[Path, dict[str, Any]]) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "groundup", "serve", str(finished_run[0]), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    found = None
    while found is None:
        line = process.stderr.readline()
        assert line, "the server ended"
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
    yield found.group()
    process.terminate()
    process.communicate(timeout=30)


def test_the_report_shows_curves_and_reads_them_off(finished_run: tuple[Path, dict[str, Any]], page: Page) -> None:
    page.goto((finished_run[0] / "report.html").as_uri())
    assert "small" in page.title()
    bits = finished_run[1]["evaluate"]["bits_per_byte"]
    assert f"{bits:.3f}"[:4] in page.inner_text("body")
    charts = page.locator("figure[data-chart] .plot")
    assert charts.count() >= 4
    chart = charts.first
    assert chart.locator("path, polyline").count() > 0
    chart.scroll_into_view_if_needed()
    chart.hover()
    tip = chart.locator(".tip")
    tip.wait_for(timeout=5000)
    assert re.search(r"\d", tip.inner_text())


def test_the_page_generates_streams_and_remembers(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#state")).to_contain_text("ready")
    assert page.inner_text("#name") == "small"
    page.fill("#prompt", "the river")
    page.locator("#max_tokens").fill("8")
    page.click("#go")
    expect(page.locator("#ended")).not_to_be_empty()
    assert page.inner_text("#given") == "the river"
    assert "tokens" in page.inner_text("#readout")
    assert page.text_content("#made")
    page.fill("#prompt", "<img src=x onerror=alert(1)>")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#given")).to_contain_text("<img")
    assert page.locator("main img").count() == 0, "what is typed is text"
    assert page.locator("#list li").count() >= 1


def test_an_error_is_a_sentence_and_the_prompt_stays(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#state")).to_contain_text("ready")
    page.expected_problems = ["Failed to load resource: net::ERR_FAILED"]  # type: ignore[attr-defined]
    page.route("**/v1/completions", lambda route: route.abort())
    page.fill("#prompt", "a text of some worth")
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert len(page.inner_text("#error").split()) > 3
    assert page.input_value("#prompt") == "a text of some worth"
