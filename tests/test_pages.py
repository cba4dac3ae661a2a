"""The report and the server's page in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import groundup_json, served, watched_page

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    with watched_page(browser, r"file:|data:|http://127\.0\.0\.1:") as page:
        yield page


@pytest.fixture(scope="module")
def address(finished_run: tuple[Path, dict[str, Any]]) -> Iterator[str]:
    with served(finished_run[0]) as found:
        yield found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The example's run folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    return folder, groundup_json("run", EXAMPLES / "digits.toml", "--run-dir", folder)


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


def test_the_example_of_digits_is_right_nearly_always(digits: tuple[Path, dict[str, Any]]) -> None:
    assert digits[1]["evaluate"]["accuracy"] >= 0.96
    assert digits[1]["evaluate"]["classes"] == 10


def test_the_report_of_a_classifier_shows_confusion_and_curves(digits: tuple[Path, dict[str, Any]], page: Page) -> None:
    page.goto((digits[0] / "report.html").as_uri())
    body = page.inner_text("body")
    assert f"{digits[1]['evaluate']['accuracy']:.4f}" in body
    for words in ("Confusion matrix", "ROC", "column_64", "Rows by class"):
        assert words in body, words
