"""The classifier's page in a real browser: the form, the bars, a whole CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from groundup.data.table.preprocess import Column, Preprocessor
from groundup.deploy.classifier_export import CheckRows
from tests.classifiers import SPECIES, perceptron, preprocessor, served, write
from tests.conftest import watched_page

pytestmark = pytest.mark.slow

WIDE = 1000


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    with watched_page(browser, r"data:|blob:|http://127\.0\.0\.1:") as page:
        yield page


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page") / "export"
    write(folder, preprocessor(), perceptron(preprocessor()), onnx=False)
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A thousand columns and thirty classes."""
    folder = tmp_path_factory.mktemp("wide") / "export"
    columns = [Column(f"gene {n:03d}", "number", mean=float(n), scale=2.0, fill=float(n)) for n in range(WIDE)]
    made = Preprocessor(columns, "tissue", list(range(30)), imputes=True)
    raw = {column.name: np.full(3, column.mean) for column in columns}
    rows = CheckRows(torch.from_numpy(made.encode(raw)), raw)
    write(folder, made, perceptron(made), onnx=False, rows=rows, lineage={"recipe": "genes"})
    with served(folder) as url:
        yield url


def predicted(address: str, *rows: list[Any]) -> dict[str, Any]:
    body: dict[str, Any] = httpx.post(f"{address}/predict", json={"data": list(rows)}, timeout=30).json()
    return body


def shown(share: float) -> str:
    """A probability as the page writes it: what is there but would round to nothing is not written as nothing."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def upload(page: Page, content: str | bytes, name: str = "forest.csv") -> None:
    data = content.encode() if isinstance(content, str) else content
    page.set_input_files("#upload", files=[{"name": name, "mimeType": "text/csv", "buffer": data}])


def test_the_form_predicts_and_shows_sorted_bars(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#state")).to_contain_text("ready")
    assert page.inner_text("#name") == "trees"
    assert page.get_by_label("height, m").input_value() == "3.5"
    assert "-1.25 to 9.5" in page.inner_text("#fields")
    page.get_by_label("height, m").fill("1.25")
    page.get_by_label("evergreen").select_option("true")
    page.get_by_label("colour").select_option("green")
    page.keyboard.press("Tab")
    page.click("#go")
    body = predicted(address, [1.25, 0.2, True, "green"])
    expect(page.locator("#answer")).to_contain_text(body["predictions"][0])
    order = np.argsort(body["probabilities"][0])[::-1]
    expect(page.locator("#bars .label")).to_have_text([SPECIES[c] for c in order])
    shares = page.locator("#bars .share").all_inner_texts()
    assert shares == [shown(body["probabilities"][0][c]) for c in order]
    widths = [box["width"] for bar in page.locator("#bars i").all() if (box := bar.bounding_box())]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1] > 0
    assert '"height, m": 1.25' in page.inner_text("#curl")


def test_the_form_works_by_keyboard_alone(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    page.get_by_label("height, m").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("-9")
    page.keyboard.press("Enter")
    expected = predicted(address, [-9, 0.2, False, "red"])["predictions"][0]
    expect(page.locator("#answer")).to_contain_text(expected)
    expect(page.locator("label.outside")).to_have_count(1)  # below what training saw


def test_a_field_without_its_number_is_named(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    page.get_by_label("width").fill("")
    page.click("#go")
    expect(page.locator("#error")).to_have_text("“width” needs a number.")
    expect(page.get_by_label("width")).to_have_attribute("aria-invalid", "true")
    page.click("#reset")
    expect(page.locator("#error")).to_be_hidden()


def test_a_pasted_row_fills_the_form(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    page.fill("#paste", '-2.5, .3, false, "violet"')
    page.press("#paste", "Enter")
    body = predicted(address, [-2.5, 0.3, False, "violet"])
    expect(page.locator("#answer")).to_contain_text(body["predictions"][0])
    assert page.get_by_label("height, m").input_value() == "-2.5"
    page.fill("#paste", "1,2,3")
    page.press("#paste", "Enter")
    expect(page.locator("#error")).to_contain_text("the first line has 3 values where the model takes 4")
    page.fill("#paste", "1,tall,true,red")
    page.press("#paste", "Enter")
    expect(page.locator("#error")).to_contain_text('“width” is "tall", which is no number')


def test_a_csv_file_is_predicted_in_portions_and_given_back(address: str, page: Page) -> None:
    """Columns in another order, the target among them, quotes, a byte order mark, more rows than one portion."""
    count = 4321
    random = np.random.default_rng(2)
    rows = [[float(h), float(w)] for h, w in random.normal(1, 2, (count, 2)).round(3)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(["note", "colour", "height, m", "species", "evergreen", "width"])
    for n, (height, width) in enumerate(rows):
        writer.writerow([f'says "{n}",\nthen ends', ["red", "3"][n % 2], height, "oak", "TRUE", width])
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url) if r.url.endswith("/predict") else None)
    upload(page, "\ufeff" + text.getvalue())
    body = predicted(address, *([h, w, True, ["red", "3"][n % 2]] for n, (h, w) in enumerate(rows)))
    accuracy = body["predictions"].count("oak") / count
    expect(page.locator("#done")).to_contain_text(f"4,321 rows · {100 * accuracy:.1f} % as in “species”")
    assert len(requests) == 3
    assert page.locator("#body tr").count() == 100
    assert page.locator("#body tr").nth(1).locator("td").first.inner_text() == "4"  # a note takes two lines
    with page.expect_download() as started:
        page.click("#download")
    assert started.value.suggested_filename == "forest-predictions.csv"
    with Path(started.value.path()).open(newline="", encoding="utf-8") as file:
        records = list(csv.reader(file))
    assert records[0][6:] == ["predicted species", *(f"probability {label}" for label in SPECIES)]
    assert records[0][:6] == ["note", "colour", "height, m", "species", "evergreen", "width"]
    assert [record[6] for record in records[1:]] == body["predictions"]
    assert records[7][0] == 'says "6",\nthen ends'
    np.testing.assert_allclose(np.array([r[7:] for r in records[1:]], float), body["probabilities"], atol=1e-6)


def test_a_csv_file_without_a_header_and_with_semicolons(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    upload(page, "1;0.2;1;red\n\n2;0.3;0;blue")
    expect(page.locator("#done")).to_have_text("2 rows")
    labels = predicted(address, [1, 0.2, True, "red"], [2, 0.3, False, "blue"])["predictions"]
    assert page.locator("#body td:nth-child(2)").all_inner_texts() == labels


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,0.2,true,red\n1,,true,red", "Line 2: “width” has no value, and the model was trained on whole rows."),
        ("1,0.2,true,red\n1,0x1F,true,red", 'Line 2: “width” is "0x1F", which is no number.'),
        ("1,0.2,true,red\n1,1e999,true,red", 'Line 2: “width” is "1e999", which is no number.'),
        ("1,0.2,perhaps,red", 'Line 1: “evergreen” is "perhaps", which is neither true nor false.'),
        ("1,0.2,true,red\n1,0.2,true", "Line 2 has 3 values, the first line 4."),
        ('1,0.2,true,"red\n', "Line 1: a quote is opened and never closed."),
        ('1,0.2,true,"red"x', 'Line 1: after a closing quote there is "x"'),
        ("width,evergreen,colour\n1,true,red", "The header lacks “height, m”."),
        ("a,b,c,d\n1,0.2,true,red", "The header names none of the model's columns"),
        ('"height, m",width,evergreen,colour\n', "There are no rows below the header."),
        ("", "The file has no rows."),
        (b"\xff\xfe1", "The file is not in UTF-8."),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_line(address: str, page: Page, content: str | bytes, words: str) -> None:
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    upload(page, content)
    expect(page.locator("#tableError")).to_contain_text(f"forest.csv: {words}")
    expect(page.locator("#scroll")).to_be_hidden()


def test_a_thousand_columns_stay_usable(wide: str, page: Page) -> None:
    page.goto(wide)
    expect(page.locator("#bars li")).to_have_count(10)
    page.click("#all")
    expect(page.locator("#bars li")).to_have_count(30)
    box = page.locator("#form").bounding_box()
    assert box is not None
    assert box["height"] < 700
    page.fill("#filter", "042")
    expect(page.locator("#fields label:visible")).to_have_count(1)
    expect(page.locator("#count")).to_have_text("1 of 1,000 columns")
    page.get_by_label("gene 042").fill("")  # filled in by the model, with what stood there
    page.fill("#filter", "")
    page.click("#go")
    expected = predicted(wide, [float(n) for n in range(WIDE)])
    expect(page.locator("#answer")).to_contain_text(str(expected["predictions"][0]))


def test_light_and_dark(address: str, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    ground = page.locator("body").evaluate("body => getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(20, 22, 26)"
    page.click("#theme")
    ground = page.locator("body").evaluate("body => getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(251, 250, 248)"


def test_a_server_that_is_gone_is_told(address: str, page: Page) -> None:
    page.goto(address)
    expect(page.locator("#result")).to_be_visible()
    page.expected_problems = ["Failed to load resource: net::ERR_FAILED"]  # type: ignore[attr-defined]
    page.route("**/predict", lambda route: route.abort())
    page.get_by_label("height, m").fill("7")
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("The server can't be reached")
    assert page.get_by_label("height, m").input_value() == "7"
