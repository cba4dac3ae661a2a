"""The reports of tables and searches in a real browser: what the pointer reads off, and that a phone shows all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from groundup.report.page import write_report
from tests.report_table_run import make_search, make_table_run, search

pytestmark = pytest.mark.slow


@pytest.fixture(params=[1280, 390])
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page, wide or narrow, that must log no error."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.close()
    assert problems == []


def fits(page: Page) -> bool:
    """Whether nothing reaches over the page's right edge."""
    box = page.locator("main").bounding_box()
    width = (page.viewport_size or {})["width"]
    assert box is not None
    page.mouse.wheel(10_000, 0)
    return box["x"] + box["width"] <= width and page.locator("main").bounding_box() == box


def test_trial_under_the_pointer_is_read_off(page: Page, tmp_path: Path) -> None:
    page.goto(write_report(make_search(tmp_path)).as_uri())
    assert fits(page)
    plot = page.locator("figure", has=page.locator("figcaption b", has_text="optim.optimizer")).locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    muons = [t["value"] for t in search()["trials"] if t["values"]["optim.optimizer"] == "muon" and t["value"]]
    plot.hover(position={"x": box["width"] / 2, "y": box["height"] - 4})
    tip = plot.locator(".tip").inner_text()
    assert "optim.optimizer muon" in tip
    assert f"{min(muons):.4f}"[:5] in tip


def test_heat_map_and_curves_fit_the_page(page: Page, tmp_path: Path) -> None:
    page.goto(write_report(make_table_run(tmp_path, [f"a class of some length {k}" for k in range(30)])).as_uri())
    assert fits(page)
    figure, cells = page.locator(".heat").bounding_box(), page.locator(".cells").bounding_box()
    assert figure is not None
    assert cells is not None
    assert figure["x"] < cells["x"]
    assert cells["x"] + cells["width"] < figure["x"] + figure["width"]
    assert cells["width"] > 0.55 * figure["width"]
    page.locator(".heat summary").click()
    assert page.locator(".heat tbody tr").count() == 30
    page.locator("summary", has_text="more classes").click()
    assert page.locator("#evaluation .scroll td", has_text="a class of some length 29").is_visible()
    assert fits(page)
