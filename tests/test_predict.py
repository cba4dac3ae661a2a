"""The classifier's server as clients see it: a process of its own over a small export, asked through HTTP."""

from __future__ import annotations

import http.client
import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.table.preprocess import Column, Preprocessor
from groundup.deploy.classifier_api import MAX_BODY_BYTES, MAX_ROWS, parse_predict
from groundup.deploy.classifier_app import Predictor
from groundup.deploy.classifier_load import load_classifier
from groundup.deploy.classifier_schema import openapi, schema
from groundup.deploy.server import serve
from groundup.deploy.web import ApiError
from groundup.errors import UserError
from tests.classifiers import SPECIES, perceptron, preprocessor, served, table, write

NAMES = ["height, m", "width", "evergreen", "colour"]
GOOD: list[Any] = [1.5, 0.25, True, "red"]
MADE, FILLING = preprocessor(), preprocessor(imputes=True, classes=[10, 20.5, "x"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "export"
    write(folder, MADE, perceptron(MADE))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with served(folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose model fills in missing values, and whose classes are of several types."""
    folder = tmp_path_factory.mktemp("filling") / "export"
    write(folder, FILLING, perceptron(FILLING), onnx=False)
    with served(folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def predict(client: httpx.Client, data: Any) -> dict[str, Any]:
    response = client.post("/predict", json={"data": data})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def as_lists(columns: dict[str, np.ndarray]) -> list[list[Any]]:
    return [list(row) for row in zip(*(columns[name].tolist() for name in NAMES), strict=True)]


# --- predictions


def test_raw_rows_are_served_as_the_model_was_trained(client: httpx.Client, folder: Path) -> None:
    model, loaded = load_classifier(folder)
    raw = table(200, seed=3)
    with torch.no_grad():
        expected = model(torch.from_numpy(loaded.encode(raw))).double().softmax(-1).numpy()
    body = predict(client, as_lists(raw))
    assert body.keys() == {"classes", "predictions", "probabilities"}
    assert body["classes"] == SPECIES
    np.testing.assert_allclose(body["probabilities"], expected, rtol=1e-5, atol=1e-7)
    assert body["predictions"] == [SPECIES[c] for c in expected.argmax(1)]
    assert len(set(body["predictions"])) > 1
    np.testing.assert_allclose(np.sum(body["probabilities"], axis=1), 1, atol=1e-6)


def test_objects_say_the_same_as_lists_in_any_order(client: httpx.Client) -> None:
    rows = as_lists(table(5))
    objects = [dict(reversed(list(zip(NAMES, row, strict=True)))) for row in rows]
    assert predict(client, objects) == predict(client, rows)


def test_dropout_is_off(client: httpx.Client) -> None:
    """The model was exported in the mode of training, with a dropout of a half."""
    rows = as_lists(table(20))
    first = predict(client, rows)
    assert all(predict(client, rows) == first for _ in range(5))


def test_labels_are_served_as_they_were(filling: httpx.Client) -> None:
    body = predict(filling, as_lists(table(200, seed=1)))
    assert [(type(label), label) for label in body["classes"]] == [(int, 10), (float, 20.5), (str, "x")]
    assert set(body["predictions"]) <= {10, 20.5, "x"}
    assert len(set(map(str, body["predictions"]))) > 1


def test_missing_values_are_filled_in_where_the_model_does(filling: httpx.Client) -> None:
    filled = predict(filling, [[3.5, 0.2, True, "red"]])
    assert predict(filling, [[None, None, None, None]]) == filled
    assert predict(filling, [dict.fromkeys(NAMES)]) == filled


def test_an_unknown_category_shares_the_place_of_the_rare_ones(client: httpx.Client) -> None:
    body = predict(client, [[1, 0.2, False, "ultraviolet"], [1, 0.2, False, ""], [1, 0.2, False, "red"]])
    first, second, known = body["probabilities"]
    assert first == second != known


def test_categories_and_truths_may_be_written_in_several_ways(client: httpx.Client) -> None:
    body = predict(client, [[1, 0.2, True, "3"], [1, 0.2, 1, 3], [1.0, 0.2, "True", 3.0]])
    assert body["probabilities"][0] == body["probabilities"][1] == body["probabilities"][2]


def test_many_rows_at_once_and_many_requests_at_once(client: httpx.Client) -> None:
    rows = as_lists(table(MAX_ROWS))
    whole = predict(client, rows)
    assert len(whole["predictions"]) == MAX_ROWS
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda start: predict(client, rows[start : start + 50]), range(0, 1000, 50)))
    joined = np.concatenate([part["probabilities"] for part in parts])
    np.testing.assert_allclose(joined, whole["probabilities"][:1000], atol=1e-6)


def predictor(*columns: Column, classes: list[Any] | None = None, **settings: Any) -> tuple[Predictor, Preprocessor]:
    """In this process."""
    made = Preprocessor(list(columns), "y", classes or [0, 1], **settings)
    return Predictor(perceptron(made), made, torch.device("cpu")), made


def answer(of: Predictor, *rows: list[Any]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(of.answer(json.dumps({"data": rows}).encode())[0])
    return body


def test_labels_beyond_64_bits_are_served() -> None:
    labels = [10**20 + 1, 10**20 + 2, -(10**30)]
    made, _ = predictor(Column("x", "number"), classes=labels)
    body = answer(made, *([float(n)] for n in range(-9, 9)))
    assert body["classes"] == labels
    assert set(body["predictions"]) <= set(labels)


@pytest.mark.parametrize(
    ("notation", "text", "number", "wrong"),
    [
        ("date", "2020-01-01", 1577836800, "2020-13-01"),
        ("date", " 2020-01-01 10:30:01.5 ", 1577874601.5, "10:30"),
        ("zoned", "2020-01-01T10:30:00+02:00", 1577867400, "2020-01-01"),
        ("time", "10:30", 37800, "25:00"),
        ("time", "10:30:00.25", 37800.25, "2020-01-01"),
        ("whole", "0x1f", 31, "0xffffffffffffffffff"),
    ],
)
def test_numbers_may_be_written_as_the_table_writes_them(notation: str, text: str, number: float, wrong: str) -> None:
    _, made = predictor(Column("x", "number", notation=notation, fill=0.0), imputes=True, missing_values=["-"])
    body = json.dumps({"data": [[text], [number], [None]]}).encode()
    first, second, third = parse_predict(body, made)["x"]
    assert first == second == number
    assert math.isnan(third)
    for value in (wrong, "tall", ""):
        with pytest.raises(ApiError) as caught:
            parse_predict(json.dumps({"data": [[number], [value]]}).encode(), made)
        assert (caught.value.status, caught.value.body["error"]["param"]) == (422, "data[1].x")


def test_what_stands_for_a_missing_value_does_so_here_too() -> None:
    columns = Column("c", "category", categories=["a", "b"], fill="a"), Column("t", "boolean", fill=1.0)
    of, _ = predictor(*columns, Column("d", "number", notation="date", fill=0.0), imputes=True, missing_values=["-"])
    first, second, third = answer(of, [" -", "-", "-"], [None, None, None], ["b", False, 9])["probabilities"]
    assert first == second != third
    whole = Preprocessor([Column("c", "category", categories=["a"])], "y", [0, 1], missing_values=["-"])
    with pytest.raises(ApiError, match="trained on whole rows"):
        parse_predict(b'{"data": [["-"]]}', whole)


def test_the_schema_says_how_values_are_written() -> None:
    columns = [
        Column("d", "number", notation="date"),
        Column("z", "number", notation="zoned"),
        Column("t", "number", notation="time"),
        Column("b", "boolean", fill=1.0),
        Column("n", "number", notation="whole"),
    ]
    of, made = predictor(*columns, missing_values=["-"], decimal=",")
    described = schema(made, [{"name": "d", "mean": 1577836800.75, "std": 1.0, "min": 0.0, "max": 2e9}])
    assert (described["missing_values"], described["decimal"]) == (["-"], ",")
    defaults = [column["default"] for column in described["columns"]]
    assert defaults == ["2020-01-01 00:00:00", "1970-01-01T00:00:00Z", "00:00:00", True, 0.0]
    answer(of, defaults)
    assert openapi("m", made, described)["components"]["schemas"]["Rows"]


# --- what is refused


def row(**changes: Any) -> dict[str, Any]:
    return dict(zip(NAMES, GOOD, strict=True)) | changes


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in row().items() if key != name}


WRONG: list[tuple[Any, str, str]] = [
    ([GOOD, [1.5, 0.25, True]], "data[1]", "has 3 values; expected 4, in the order `height, m`, `width`"),
    ([[1.5, 0.25, True]], "data[0]", "The first column without one is `colour`."),
    ([[*GOOD, 1]], "data[0]", "data[0] has 5 values; expected 4"),
    ([[]], "data[0]", "data[0] has 0 values; expected 4"),
    (
        [[1.5, "0.25", True, "red"]],
        "data[0].width",
        'the column `width` is the text "0.25"; expected a number, without',
    ),
    ([GOOD, ["tall", 0.2, True, "red"]], "data[1].height, m", 'the column `height, m` is the text "tall"; expected a'),
    ([[True, 0.2, True, "red"]], "data[0].height, m", "is the boolean true; expected a number"),
    (
        [[None, 0.2, True, "red"]],
        "data[0].height, m",
        "is null; expected a number: the model was trained on whole rows",
    ),
    ([[1, 0.2, None, "red"]], "data[0].evergreen", "is null; expected true or false"),
    ([[1, 0.2, True, None]], "data[0].colour", "is null; expected a text or a number"),
    ([[1, [0.2], True, "red"]], "data[0].width", "is a list; expected a number"),
    ([[1, {}, True, "red"]], "data[0].width", "is an object; expected a number"),
    ([[1, 0.2, "maybe", "red"]], "data[0].evergreen", 'is the text "maybe"; expected true or false'),
    ([[1, 0.2, 2, "red"]], "data[0].evergreen", "is the number 2; expected true or false"),
    ([[1, 0.2, True, ["red"]]], "data[0].colour", "is a list; expected a text or a number"),
    ([row(), without("width")], "data[1].width", "data[1] lacks the column `width`."),
    ([{}], "data[0].height, m", "data[0] lacks 4 columns: `height, m`, `width`, `evergreen`, `colour`."),
    ([without("width") | {"widht": 1}], "data[0].width", "It has `widht`, which is no column of the model."),
    ([row(age=3)], "data[0].age", "data[0] has `age`, which is no column of the model; leave it out."),
    ([row(colours="red")], "data[0].colours", "did you mean `colour`?"),
    ([row(species="oak")], "data[0].species", "which is what the model predicts; leave it out"),
    ([row(id=7)], "data[0].id", "which the model was trained without; leave it out"),
    ([row(width="0.25")], "data[0].width", 'the column `width` is the text "0.25"'),
    ([GOOD, row()], "data[1]", "data[1] is an object and data[0] is a list; all rows must be of one kind."),
    ([GOOD, 5], "data[1]", "data[1] is the number 5; expected a row: a list or an object."),
    (GOOD, "data[0]", "Even a single row goes into a list of rows: [[...]]."),
    ([], "data", "`data` is empty; at least one row is needed."),
    (row(), "data", "`data` must be a list of rows, not an object."),
    (None, "data", "`data` must be a list of rows, not null."),
]


@pytest.mark.parametrize(("data", "param", "words"), WRONG)
def test_a_wrong_row_is_told_with_row_and_column(client: httpx.Client, data: Any, param: str, words: str) -> None:
    response = client.post("/predict", json={"data": data})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (422, param)
    assert words in error["message"]
    assert error["message"].endswith((".", "?"))
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("NaN", "is NaN; expected a finite number"),
        ("Infinity", "is infinite; expected a finite number"),
        ("-Infinity", "is infinite; expected a finite number"),
        ("1e999", "is infinite; expected a finite number"),
        ("1" * 400, "expected a"),
    ],
)
def test_numbers_that_are_none(client: httpx.Client, filling: httpx.Client, value: str, words: str) -> None:
    """They are no missing values either, where those are filled in."""
    for server in (client, filling):
        for body in (
            f'{{"data": [[1, 0.2, true, "red"], [1, {value}, true, "red"]]}}',
            f'{{"data": [{json.dumps(row())}, {json.dumps(row(width="?"))}]}}'.replace('"?"', value),
        ):
            response = server.post("/predict", content=body)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (422, "data[1].width"), error
            assert "In data[1] the column `width` is " in error["message"]
            assert words in error["message"]


def test_a_number_too_large_for_fp32_is_told(client: httpx.Client) -> None:
    response = client.post("/predict", json={"data": [GOOD, [1e300, 0.2, True, "red"]]})
    assert response.status_code == 422
    assert "The values of data[1] are so large" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"data": [[1, 2', b"\xff", b"[" * 100_000, b"data=1,2"])
def test_what_is_no_json(client: httpx.Client, body: bytes) -> None:
    response = client.post("/predict", content=body)
    assert response.status_code == 400
    assert "The body is not valid JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [[[1]], 3, "rows", None, {}, {"rows": [GOOD]}])
def test_a_body_without_data(client: httpx.Client, body: Any) -> None:
    response = client.post("/predict", content=json.dumps(body))
    assert response.status_code == 422
    assert "`data`" in response.json()["error"]["message"]


def test_half_a_surrogate_pair_is_told_too(client: httpx.Client) -> None:
    response = client.post("/predict", content=rb'{"data": [[1, "\ud800", true, "red"]]}')
    assert response.status_code == 422
    assert "expected a number" in response.json()["error"]["message"]


def test_too_much_at_once(client: httpx.Client) -> None:
    response = client.post("/predict", json={"data": [GOOD] * (MAX_ROWS + 1)})
    assert response.status_code == 413
    assert "`data` has 10,001 rows; at most 10,000 are taken at once" in response.json()["error"]["message"]
    address = client.base_url
    connection = http.client.HTTPConnection(address.host, address.port or 80, timeout=30)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
    connection.endheaders()  # and no body: the announced size is enough
    assert connection.getresponse().status == 413
    connection.close()


def test_a_null_hint_where_missing_values_are_filled_in(filling: httpx.Client) -> None:
    response = filling.post("/predict", json={"data": [without("width")]})
    assert response.status_code == 422
    assert "A value that is not known is sent as null." in response.json()["error"]["message"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from([*NAMES, "data", "x"]), inner),
    max_leaves=12,
)
RECORDS = st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES))
ROWS = st.lists(st.lists(VALUES, min_size=3, max_size=5) | RECORDS, max_size=3)


@given(document=VALUES | st.fixed_dictionaries({"data": VALUES | ROWS}))
@settings(max_examples=300, deadline=None)
def test_anything_is_either_taken_whole_or_refused_in_words(document: Any) -> None:
    for made in (MADE, FILLING):
        refusal, columns = None, {}
        try:
            columns = parse_predict(json.dumps(document).encode(), made)
        except ApiError as error:
            refusal = error
        if refusal is not None:
            assert refusal.status in (400, 422)
            refusal.response()  # can be written
            continue
        assert {len(values) for values in columns.values()} == {len(document["data"])}
        with np.errstate(over="ignore"):
            assert made.encode(columns).shape == (len(document["data"]), made.width)


# --- what the server tells of itself


def test_schema(client: httpx.Client, filling: httpx.Client) -> None:
    schema = client.get("/schema").json()
    assert (schema["target"], schema["classes"]) == ("species", SPECIES)
    assert schema["limits"] == {"rows": MAX_ROWS, "bytes": MAX_BODY_BYTES}
    assert [column["name"] for column in schema["columns"]] == NAMES
    height, _, evergreen, colour = schema["columns"]
    assert height == {
        "name": "height, m",
        "kind": "number",
        "mean": 3.5,
        "std": 2.0,
        "min": -1.25,
        "max": 9.5,
        "categories": None,
        "default": 3.5,
        "nullable": False,
        "notation": "number",
    }
    assert (evergreen["kind"], evergreen["default"]) == ("boolean", True)
    assert (colour["categories"], colour["default"]) == (["red", "green", "3"], "red")
    assert all(column["nullable"] for column in filling.get("/schema").json()["columns"])


def test_the_defaults_of_the_schema_can_be_predicted(client: httpx.Client, filling: httpx.Client) -> None:
    for server in (client, filling):
        predict(server, [{column["name"]: column["default"] for column in server.get("/schema").json()["columns"]}])


def test_openapi_names_the_columns_and_its_examples_work(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    by_place, by_name = (kind["items"] for kind in schemas["Rows"]["properties"]["data"]["oneOf"])
    assert [item["title"] for item in by_place["prefixItems"]] == NAMES
    assert (by_place["minItems"], by_place["maxItems"]) == (4, 4)
    assert by_name["required"] == NAMES
    assert by_name["additionalProperties"] is False
    types = {name: field["type"] for name, field in by_name["properties"].items()}
    assert types == {
        "height, m": "number",
        "width": "number",
        "evergreen": "boolean",
        "colour": ["string", "number", "boolean"],
    }
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for example in [content["example"], *schemas["Rows"]["examples"]]:
        assert client.post("/predict", json=example).status_code == 200
    assert schemas["Predictions"]["properties"]["predictions"]["items"]["enum"] == SPECIES
    for reference in re.findall(r"#/components/schemas/(\w+)", json.dumps(document)):
        assert reference in schemas
    for path, methods in document["paths"].items():
        if "get" in methods:
            assert client.get(path).status_code == 200


def test_health_and_models(folder: Path) -> None:
    with served(folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/health").json() == {"status": "ok", "model": "trees", "requests": 0, "rows": 0}
        predict(client, [GOOD] * 3)
        client.post("/predict", json={"data": []})
        assert client.get("/health").json() == {"status": "ok", "model": "trees", "requests": 1, "rows": 3}
        [model] = client.get("/v1/models").json()["data"]
        assert (model["id"], model["features"], model["classes"]) == ("trees", 7, 3)
        assert client.get("/v1/models/trees").json()["groundup"]["lineage"]["parameters"] == 300
        assert client.get("/v1/models/oaks").status_code == 404


def test_paths_and_methods_that_are_not_there(client: httpx.Client) -> None:
    response = client.get("/predictions")
    assert response.status_code == 404
    assert "/predict, /schema" in response.json()["error"]["message"]
    assert client.get("/predict").status_code == 405


def test_other_sites_are_kept_away(client: httpx.Client) -> None:
    body = {"data": [GOOD]}
    assert client.post("/predict", json=body, headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/predict", json=body, headers={"Origin": "https://evil.example"}).status_code == 403


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    places = [p for p in re.findall(r'(?:src|href)="([^"]+)"', page.text) if not p.startswith("data:")]
    assert places == ["/page.css", "/predict.css", "/predict.js"]
    while places:
        part = client.get(places.pop())
        places += [name.replace("./", "/") for name in re.findall(r'^import .* from "(.+)";$', part.text, re.M)]
        assert part.status_code == 200
        assert part.headers["x-content-type-options"] == "nosniff"
        assert "innerHTML" not in part.text
        assert "http" not in part.text.replace("https and this machine", "")
    assert "style=" not in page.text
    assert not re.search(r"<script[^>]*>[^<]", page.text)
    assert not re.search(r"\son[a-z]+=", page.text)


# --- folders that can't be served


def test_a_damaged_export_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "export", MADE, perceptron(MADE), onnx=False)
    weights = tmp_path / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="this file is not the one that was exported"):
        serve(tmp_path / "export", port=0)


def test_probabilities_are_finite_for_ordinary_extremes(client: httpx.Client) -> None:
    body = predict(client, [[1e6, -1e6, True, "red"], [-1e6, 1e6, False, "green"]])
    assert all(math.isfinite(p) for row in body["probabilities"] for p in row)
