"""The report of a classifier: its numbers are those of the run's files, whatever these hold."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from groundup.report.collect import collect
from groundup.report.page import render
from tests.report_run import Page, report, write_json, write_metrics
from tests.report_table_run import evaluation_of, make_table_run, search, table_manifest, table_metrics

HOSTILE = "</b><script>alert('x')</script><img src=x onerror=\"alert(1)\"> & more"


def marks(page: Page, tag: str, within: str) -> int:
    """How many SVG elements `tag` have exactly the class `within`."""
    return sum(name == tag and attributes.get("class") == within for name, attributes in page.tags)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_table_run(tmp_path, list(range(10)))


def test_numbers_are_those_of_the_files(run: Path) -> None:
    page, numbers = report(run)
    evaluation = json.loads((run / "evaluate.json").read_text())
    assert numbers["evaluation"] == evaluation
    assert numbers["data"] == json.loads((run / "data/manifest.json").read_text())
    assert numbers["missing"] == numbers["problems"] == []
    assert numbers["run"]["unit"] == "rows"
    assert "samples" not in [attributes.get("id") for _, attributes in page.tags]
    head = numbers["headline"]
    for name in ("accuracy", "f1_weighted", "f1_macro", "loss", "roc_auc"):
        assert head[name] == evaluation[name]
        assert f"{evaluation[name]:.4g}" in page.text
    assert (head["test_rows"], head["classes"], head["features"]) == (evaluation["rows"], 10, 15)
    assert (head["rows"], head["step"], head["parameters"]) == (600 * 64, 600, 646_154)
    assert head["rows_per_second"] == 52_305.0
    for shown in ("38.4k", "52.3k", "31.0 %", "6.0 s", "agrees with onnxruntime", "FLOPs per row2.9 MFLOP"):
        assert shown in page.text
    assert "token" not in page.text


def test_best_checkpoint_may_be_older_than_the_training(run: Path) -> None:
    page, numbers = report(run)
    assert numbers["headline"]["quality_of"] == "evaluation"
    assert numbers["headline"]["quality_step"] == 500
    assert "since." not in page.text
    best = numbers["training"]["best_validation"]
    assert best["step"] == 500
    assert f"best validation accuracy {best['accuracy']:.4f} at step 500" in page.text


def test_evaluation_of_what_is_no_longer_the_best_is_told(run: Path) -> None:
    later = {"kind": "validation", "step": 700, "samples_consumed": 44_800, "loss": 0.1, "accuracy": 0.99}
    write_metrics(run, [*table_metrics(600), later])
    page, numbers = report(run)
    assert "The evaluation is of step 500; the best validation was at step 700 since." in page.text
    assert (numbers["headline"]["quality_of"], numbers["headline"]["accuracy"]) == ("validation", 0.99)


def test_curves_of_a_table(run: Path) -> None:
    page, numbers = report(run)
    curves = numbers["training"]["curves"]
    lines = [line for line in table_metrics(600) if line["kind"] == "validation"]
    for name in ("loss", "accuracy", "f1_weighted", "f1_macro"):
        assert curves[f"validation_{name}"]["value"] == [line[name] for line in lines]
        assert curves[f"validation_{name}"]["rows"] == [line["samples_consumed"] for line in lines]
    assert curves["train_rows_per_second"]["value"][:2] == [52_010.0, 52_020.0]
    for title in ("Accuracy and F1 on validation", "Learning rate", "Gradient norm", "Rows per second", "nats per row"):
        assert title in page.text


def test_progress_is_counted_in_rows(run: Path) -> None:
    (run / "steps/train.json").unlink()
    page, numbers = report(run)
    trained = numbers["data"]["splits"]["train"]["rows"]
    assert numbers["progress"]["fraction"] == min(1.0, 600 * 64 / (5 * trained))
    write_metrics(run, table_metrics(300))
    page, numbers = report(run)
    assert numbers["progress"]["fraction"] == 300 * 64 / (5 * trained)
    assert f"at step 300, {300 * 64 / (5 * trained):.1%} of 5 epochs".replace("%", " %") in page.text


def test_confusion_matrix_and_curves_are_drawn(run: Path) -> None:
    page, numbers = report(run)
    evaluation = numbers["evaluation"]
    filled = [(t, p, n) for t, row in enumerate(evaluation["confusion"]) for p, n in enumerate(row) if n]
    drawn = [attributes for tag, attributes in page.tags if tag == "rect" and "fill-opacity" in attributes]
    assert len(drawn) == len(filled)
    assert sum(one["class"] == "c0" for one in drawn) == sum(t == p for t, p, _ in filled)
    for true, predicted, n in filled:
        words = f"{true} taken for {predicted}: {n}, "
        assert any((attributes.get("title") or "").startswith(words) for _, attributes in page.tags)
    (chart,) = [
        found
        for _, attributes in page.tags
        if (found := json.loads(attributes.get("data-chart") or "{}")).get("xl") == "false positive rate"
    ]
    assert [one["n"] for one in chart["s"]] == [
        *(f"{curve['label']}  {curve['auc']:.4f}" for curve in evaluation["roc"]),
        "chance",
    ]
    worst = numbers["classifier"]["confused"][0]
    wrong = max(n for t, p, n in filled if t != p)
    assert worst["rows"] == wrong
    assert worst["share"] == wrong / sum(evaluation["confusion"][worst["true"]])


def test_two_classes_have_one_curve(tmp_path: Path) -> None:
    run = make_table_run(tmp_path, ["benign", "malignant"])
    page, numbers = report(run)
    (area,) = numbers["classifier"]["auc"]
    assert area == {"label": "malignant", "auc": numbers["evaluation"]["roc_auc"]}
    assert f"malignant  {area['auc']:.4f}" in page.text
    assert len([a for tag, a in page.tags if tag == "rect" and "fill-opacity" in a]) == 4


def test_area_is_worked_out_where_the_file_has_none(run: Path) -> None:
    curve = {"label": "a", "points": [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]}
    write_json(run, "evaluate.json", {"step": 500, "roc": [curve, {"label": "b", "points": []}]})
    assert collect(run)["classifier"]["auc"] == [{"label": "a", "auc": 0.875}, {"label": "b", "auc": None}]


def test_many_classes_and_columns_stay_readable(tmp_path: Path) -> None:
    run = make_table_run(tmp_path, [f"class {k:02d}" for k in range(100)], columns=1000)
    page, numbers = report(run)
    assert not [a for tag, a in page.tags if tag == "rect" and "fill-opacity" in a]
    pairs = numbers["classifier"]["confused"]
    assert len(pairs) == 20
    assert [p["rows"] for p in pairs] == sorted((p["rows"] for p in pairs), reverse=True)
    assert f"{pairs[0]['true']}{pairs[0]['predicted']}{pairs[0]['rows']}" in page.text
    lowest = sorted(one["auc"] for one in numbers["classifier"]["auc"])[9]
    drawn = [one for one in numbers["classifier"]["auc"] if one["auc"] <= lowest]
    assert len(drawn) == 10
    assert all(f"{one['label']}  {one['auc']:.4f}" in page.text for one in drawn)
    for told in ("the 10 lowest of 100", "75 more classes", "980 more columns", "the 15 largest of 100", "column_999"):
        assert told in page.text
    scrolling = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert len(scrolling) == 3
    assert (run / "report.html").stat().st_size < 400_000


def test_data_of_a_table(run: Path) -> None:
    page, _ = report(run)
    (funnel,) = re.findall(r"Rows through the stages(.*?)Why rows were dropped", page.text)
    assert funnel == "read10.8k100 %clean10.2k94.4 %exact_dedup10k93.0 %split10k93.0 %scale10k93.0 %"
    for told in (
        "a value is missing597 rows 79.6 %",
        "row seen before150 rows",
        "597 a value is missing, 3 the target is missing",
        "the same value in all training rows: ",
        "column_1number constant11",
        "6 number, 3 category, 3 boolean, 1 constant",
        "column_8number2178.5001.250-8.00016.00",
        "Largest memory312 MB",
    ):
        assert told in page.text
    bars = [a for tag, a in page.tags if tag == "rect" and a.get("x") is not None and "fill-opacity" not in a]
    assert len(bars) == 10 * 3
    assert marks(page, "path", "band") == 5


@pytest.mark.parametrize("name", ["data/manifest.json", "evaluate.json", "export.json", "plan.json", "metrics.jsonl"])
def test_run_without_a_part_says_what_makes_it(run: Path, name: str) -> None:
    (run / name).unlink()
    page, numbers = report(run)
    (missing,) = numbers["missing"]
    assert missing["command"] in page.text
    assert numbers["run"]["unit"] == "rows"


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "✓ agrees with onnxruntime"),
        ({"relative_difference": 2e-3}, "not shown to agree with onnxruntime"),
        ({"files": {"model.safetensors": "ab"}}, "✓ agrees with the folder read back"),
    ],
)
def test_export_is_judged_by_its_share_of_the_largest_logit(run: Path, changed: dict[str, Any], verdict: str) -> None:
    write_json(run, "export.json", json.loads((run / "export.json").read_text()) | changed)
    page, _ = report(run)
    assert f"Check{verdict.removeprefix('✓ ')}" in page.text
    (kind,) = [
        a["class"] for _, a in page.tags if "pill" in (a.get("class") or "") and "open" not in (a["class"] or "")
    ]
    assert kind == ("pill good" if verdict.startswith("✓") else "pill bad")
    assert "Compared on256 raw rows" in page.text


def test_labels_and_columns_are_shown_as_text(run: Path) -> None:
    labels = [HOSTILE, "b", "c"]
    manifest = table_manifest(labels, 4)
    manifest["columns"][0] |= {"name": HOSTILE, "kind": HOSTILE}
    manifest["stages"][1] |= {"name": HOSTILE, "dropped": {HOSTILE: 3}}
    write_json(run, "data/manifest.json", manifest | {"warnings": [HOSTILE], "target": HOSTILE})
    write_json(run, "evaluate.json", evaluation_of(labels, 500, 500))
    tune = search() | {"metric": HOSTILE, "best": {HOSTILE: HOSTILE}, "importance": {HOSTILE: 1.0}}
    tune["trials"] = [
        {"number": 0, "state": "failed", "values": {HOSTILE: HOSTILE}, "value": None, "reason": HOSTILE},
        {"number": 1, "state": "complete", "values": {HOSTILE: HOSTILE}, "value": 1.5},
    ]
    write_json(run, "tune.json", tune)
    page, numbers = report(run)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert "img" not in names
    assert page.text.count(HOSTILE) >= 20
    assert "alert" not in page.content["script"]
    assert numbers["classifier"]["labels"][0] == HOSTILE


JUNK: list[Any] = [None, True, 5, -1e308, "x", [], {}, [[1]], [None, "y"], [{"a": [1]}], {"a": {"b": "c"}}]


@pytest.mark.parametrize("name", ["data/manifest.json", "evaluate.json", "export.json", "plan.json", "tune.json"])
def test_whatever_a_file_holds_there_is_a_page(tmp_path: Path, name: str) -> None:
    run = make_table_run(tmp_path, ["a", "b", "c"], columns=3, steps=20)
    write_json(run, "tune.json", search(6))
    whole = json.loads((run / name).read_text())
    for key, junk in product(whole, JUNK):
        write_json(run, name, whole | {key: junk})
        assert "</html>" in render(collect(run))


@pytest.mark.parametrize(
    ("name", "key"), [("tune.json", "trials"), ("data/manifest.json", "columns"), ("evaluate.json", "roc")]
)
def test_whatever_an_entry_holds_there_is_a_page(tmp_path: Path, name: str, key: str) -> None:
    run = make_table_run(tmp_path, ["a", "b", "c"], columns=3, steps=20)
    write_json(run, "tune.json", search(6))
    whole = json.loads((run / name).read_text())
    for inner, junk in product(whole[key][0], JUNK):
        write_json(run, name, whole | {key: [whole[key][0] | {inner: junk}, *whole[key][1:]]})
        assert "</html>" in render(collect(run))
