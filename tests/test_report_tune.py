"""The report of a search: what was tried, what came of it, and what mattered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.report_run import Page, make_run, report, write_json
from tests.report_table_run import make_search, search


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_search(tmp_path)


def charts(page: Page) -> dict[str, dict[str, Any]]:
    """What the readout of each chart knows, by the label of its x axis."""
    found = [json.loads(a["data-chart"]) for _, a in page.tags if a.get("data-chart")]
    return {chart["xl"]: chart for chart in found}


def test_folder_with_nothing_but_a_search(run: Path) -> None:
    page, numbers = report(run)
    found = search()
    assert numbers["problems"] == numbers["missing"] == []
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["tuning", "data", "recipe", "lineage"]
    assert [a["href"] for tag, a in page.tags if tag == "a"] == [f"#{name}" for name in sections]
    assert numbers["tune"]["counts"] == {"complete": 8, "pruned": 3, "failed": 1, "running": 0}
    assert numbers["tune"]["best"] == found["best"]
    for shown in (
        f"Best loss{found['best_value']:.4f}the lowest on validation",
        f"Of trial{found['best_trial']}3 keys searched",
        "Trials128 complete, 3 pruned, 1 failed",
        "Learning rate0.00065suggested by the range test",
        "12 of 12 trials",
        str(run / "best.toml"),
        "optim.lr71.0 %",
        "failed: the loss is nan at step 12",
        "pruned at step 40",
    ):
        assert shown in page.text
    assert not re.search("nan|inf", " ".join(a.get("d") or "" for _, a in page.tags))


def test_trials_stand_in_the_order_of_their_value(run: Path) -> None:
    page, _ = report(run)
    table = page.text[page.text.rindex("TrialState") :]
    complete = sorted((t["value"], t["number"]) for t in search()["trials"] if t["state"] == "complete")
    places = [table.index(f"{value:.5f}") for value, _ in complete]
    assert places == sorted(places)
    assert table.index("best") < places[0]
    assert places[-1] < table.index("pruned at step") < table.index("failed:")


def test_trials_and_keys_are_drawn(run: Path) -> None:
    page, numbers = report(run)
    drawn = charts(page)
    trials = numbers["tune"]["trials"]
    best, complete, pruned = drawn["trial"]["s"]
    values = [trial["value"] for trial in trials if trial["state"] == "complete"]
    assert complete["y"] == pytest.approx(values, rel=1e-5)
    assert best["y"][-1] == pytest.approx(min(values), rel=1e-5)
    assert best["y"] == sorted(best["y"], reverse=True)
    assert len(best["y"]) == 12
    assert pruned["x"] == [3, 7, 11]
    assert pruned["y"] == pytest.approx([trials[n]["steps"][-1][1] for n in (3, 7, 11)], rel=1e-5)
    rate, kind = drawn["optim.lr"], drawn["optim.optimizer"]
    assert [len(series["x"]) for series in rate["s"]] == [7, 3, 1]
    assert rate["s"][2]["x"] == pytest.approx([search()["best"]["optim.lr"]], rel=1e-5)
    assert rate["x"][2] == 1
    assert kind["xn"] == ["adamw", "muon", "sgd"]
    assert sum(len(series["x"]) for series in kind["s"]) == 11


def test_range_test_is_drawn_on_a_logarithmic_axis_with_its_suggestion(run: Path) -> None:
    page, _ = report(run)
    chart = charts(page)["learning rate"]
    assert chart["x"] == pytest.approx([1e-6, 1.0, 1])
    assert [(s["n"], len(s["x"])) for s in chart["s"]] == [("loss", 121), ("smoothed", 121)]
    (mark,) = [a["style"] for _, a in page.tags if a.get("class") == "mark"]
    # 6.5e-4 lies at (log10(6.5e-4) + 6) / 6 of the way from 1e-6 to 1.
    assert mark == "left:46.88%"
    assert "The range test's 121 steps as a table" in page.text


def test_highest_may_be_best(run: Path) -> None:
    found = search()
    found |= {"metric": "accuracy", "direction": "maximize"}
    values = [t["value"] for t in found["trials"] if t["state"] == "complete"]
    write_json(run, "tune.json", found | {"best_value": max(values)})
    page, numbers = report(run)
    assert numbers["tune"]["best_so_far"][-1] == max(values)
    assert f"Best accuracy{max(values):.4f}the highest on validation" in page.text
    table = page.text[page.text.rindex("TrialState") :]
    assert table.index(f"{max(values):.5f}") < table.index(f"{min(values):.5f}")


def test_search_that_goes_on(run: Path) -> None:
    found = search()
    write_json(run, "tune.json", found | {"trials": found["trials"][:2], "range_test": None, "importance": {}})
    (run / "best.toml").unlink()
    page, numbers = report(run)
    assert "2 of 12 trials" in page.text
    assert "under-way" in [a.get("class") for _, a in page.tags]
    assert numbers["tune"]["recipe"] is None
    assert "What mattered" not in page.text
    assert "learning rate" not in charts(page)


def test_search_before_its_first_trial(run: Path) -> None:
    nothing = {"metric": "loss", "direction": "minimize", "best": {}, "best_value": None, "best_trial": None}
    write_json(run, "tune.json", nothing | {"trials": [], "importance": {}, "range_test": None})
    page, _ = report(run)
    assert "none yet" in page.text
    assert "Nothing to draw" in page.text


def test_search_beside_a_training(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_json(run, "tune.json", search())
    page, numbers = report(run)
    assert numbers["run"]["only_tuned"] is False
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections[:3] == ["training", "tuning", "data"]
    assert "Bits per byte" in page.text
    assert "Learning-rate range test" in page.text
