"""The report's page stands alone, and shows whatever the files hold as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from groundup.errors import UserError
from groundup.report.page import write_report
from tests.report_run import (
    EVALUATION,
    EXPORT,
    MANIFEST,
    METRICS,
    PLAN,
    make_run,
    report,
    sample_line,
    train_line,
    validation_line,
    write_json,
    write_metrics,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def test_page_stands_alone(run: Path) -> None:
    page, _ = report(run)
    fetching = {"link", "img", "iframe", "object", "embed", "base", "form", "image"}
    assert fetching.isdisjoint(tag for tag, _ in page.tags)
    for _, attributes in page.tags:
        assert not {"src", "srcset", "xlink:href", "action", "data", "poster"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
        assert "url(" not in (attributes.get("style") or "")
    assert not re.search(r"url\(|@import|@font-face|https?:|//[a-z]", page.content["style"])
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:", page.content["script"])
    targets = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert targets == {f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"}


def test_policy_allows_the_one_script_only(run: Path) -> None:
    page, _ = report(run)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.content["script"].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_whatever_files_hold_is_shown_as_text(run: Path) -> None:
    hostile = "</pre></script><script>alert('x')</script><img src=x onerror=\"alert(1)\"> & <|endoftext|>"
    write_metrics(run, [*METRICS, sample_line(40, hostile, prompt=hostile + "?")])
    (run / "recipe.toml").write_text(f"name = {json.dumps(hostile)}\ntask = 'a'\n")
    write_json(run, "recipe.origins.json", {"name": hostile, "x": hostile})
    write_json(run, "lineage.json", {hostile: [hostile, {hostile: None}], "created": hostile})
    write_json(run, "evaluate.json", EVALUATION | {"samples": [{"prompt": hostile, "text": hostile + " more"}]})
    write_json(run, "export.json", EXPORT | {"architecture": hostile, "files": {hostile: hostile}})
    stage = {"name": hostile, "documents_in": 9, "documents_out": 6, "dropped": {hostile: 3}}
    source = {"name": hostile, "path": hostile, "tokens": 5}
    write_json(run, "data/manifest.json", MANIFEST | {"stages": [stage], "sources": [source]})
    write_json(run, "plan.json", PLAN | {"layers": [{hostile: hostile}]})
    write_json(run, "steps/train.json", {"fingerprint": hostile, "finished": hostile, "seconds": hostile})
    page, numbers = report(run)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert "img" not in names
    assert page.text.count(hostile) >= 20
    assert hostile + " more" in page.text
    assert "alert" not in page.content["script"]
    assert numbers["run"]["name"] == hostile


def test_recipe_shows_every_value_with_its_origin(run: Path) -> None:
    page, _ = report(run)
    lines = ('name = "tiny <run>"tiny.toml:1', 'path = "texts/*.txt"tiny.toml:4', "batch_tokens = 1000--set")
    for line in lines:
        assert line in page.text
    assert 'split_on = "a  b"' in page.text
    assert "# device is not setdefault" in page.text


def test_progress_of_a_training_in_the_middle(run: Path) -> None:
    (run / "steps/train.json").unlink()
    page, numbers = report(run)
    assert numbers["progress"] == {"asked": "100 steps", "fraction": 0.4}
    assert "at step 40, 40.0 % of 100 steps" in page.text


def test_evaluation_older_than_the_training_is_told(run: Path) -> None:
    write_metrics(run, [*METRICS, train_line(50), validation_line(50, 4.0)])
    page, numbers = report(run)
    assert numbers["headline"]["quality_of"] == "validation"
    assert numbers["headline"]["bits_per_byte"] == 2.0
    assert "The evaluation is of step 40; the model was trained to step 50 since." in page.text


def test_export_that_was_not_shown_to_agree(run: Path) -> None:
    write_json(run, "export.json", EXPORT | {"max_logit_difference": 0.5})
    page, _ = report(run)
    assert "not shown to agree with transformers" in page.text


def test_writing_again_replaces_both_files_and_leaves_nothing_else(run: Path) -> None:
    write_report(run)
    before = set(run.iterdir())
    write_metrics(run, METRICS[:2])
    _, numbers = report(run)
    assert set(run.iterdir()) == before
    assert numbers["headline"]["step"] == 20


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nothing of a run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_report_that_cannot_be_written(run: Path) -> None:
    (run / "report.json").mkdir()
    with pytest.raises(UserError, match="can't be written"):
        write_report(run)
