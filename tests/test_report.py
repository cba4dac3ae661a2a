"""The report's numbers are the numbers of the run's files, at whatever stage the run is."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest

from groundup.report.collect import collect
from tests.report_run import (
    EVALUATION,
    EXPORT,
    LINEAGE,
    MANIFEST,
    METRICS,
    PLAN,
    make_run,
    report,
    sample_line,
    train_line,
    validation_line,
    write_metrics,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def test_numbers_are_those_of_the_files(run: Path) -> None:
    page, numbers = report(run)
    assert numbers["data"] == MANIFEST
    assert numbers["evaluation"] == EVALUATION
    assert numbers["export"] == EXPORT
    assert numbers["plan"] == PLAN
    assert numbers["lineage"] == LINEAGE
    assert numbers["missing"] == numbers["problems"] == []
    assert numbers == json.loads(json.dumps(collect(run)))
    curves = numbers["training"]["curves"]
    trained = [line for line in METRICS if line["kind"] == "train"]
    for name in ("loss", "grad_norm", "lr", "tokens_per_second", "flops_per_second", "peak_share"):
        found = curves[f"train_{name}"]
        assert found["step"] == [10, 20, 30, 40]
        assert found["tokens"] == [10_000, 20_000, 30_000, 40_000]
        assert found["value"] == [line[name] for line in trained]
    assert curves["validation_bits_per_byte"]["value"] == [3.1, 2.1]
    head = numbers["headline"]
    assert (head["bits_per_byte"], head["perplexity"], head["quality_of"]) == (1.21, 12.18, "evaluation")
    assert (head["step"], head["tokens"], head["samples_consumed"]) == (40, 40_000, 160)
    assert (head["tokens_per_second"], head["peak_share"], head["parameters"]) == (9025.0, 0.5, 123456)
    assert head["train_seconds"] == 4.0
    assert head["all_steps_seconds"] == 2.0 + 4.0 + 0.5 + 0.25
    cards = ("1.210", "12.18", "40k", "9.02k", "50.0 %", "123k", "4.0 s")
    for shown in (*cards, "agrees with transformers", "ef" * 32, "text seen before"):
        assert shown in page.text


def test_of_several_lines_for_a_step_the_last_one_counts(run: Path) -> None:
    again = [train_line(40, loss=1.5), validation_line(40, 3.0), sample_line(40, "newer")]
    write_metrics(run, [*METRICS, *again])
    _, numbers = report(run)
    assert numbers["training"]["curves"]["train_loss"]["value"] == [7.0, 6.0, 5.0, 1.5]
    assert numbers["training"]["last_validation"]["loss"] == 3.0
    assert numbers["samples"]["shown"][-1] == {"step": 40, "texts": [{"prompt": "", "text": "newer"}]}


def test_resume_takes_back_what_came_after_it(run: Path) -> None:
    write_metrics(run, [*METRICS, {"kind": "resume", "step": 20}, train_line(30, loss=4.5, seconds=0.5)])
    page, numbers = report(run)
    training = numbers["training"]
    assert training["resumed_at"] == [20]
    assert training["curves"]["train_loss"]["step"] == [10, 20, 30]
    assert training["curves"]["train_loss"]["value"] == [7.0, 6.0, 4.5]
    assert training["last_validation"]["step"] == 20
    assert [entry["step"] for entry in numbers["samples"]["shown"]] == [20]
    assert training["last"]["seconds"] == pytest.approx(2.0 + 0.5)
    assert "resumed" in page.text


def test_clock_that_runs_on_over_a_resume_is_left_alone(run: Path) -> None:
    write_metrics(run, [*METRICS, {"kind": "resume", "step": 20}, train_line(30, seconds=3.25)])
    assert collect(run)["headline"]["train_seconds"] == 3.25


def test_values_that_are_not_finite_are_gaps_and_told(run: Path) -> None:
    write_metrics(run, [train_line(10), train_line(20, loss=None, grad_norm=None), train_line(30)])
    page, numbers = report(run)
    assert numbers["training"]["curves"]["train_loss"]["value"] == [7.0, None, 5.0]
    assert numbers["training"]["losses_not_finite"] == 1
    assert "not finite: 1" in page.text
    assert not re.search("nan|inf", " ".join(attributes.get("d") or "" for _, attributes in page.tags))


@pytest.mark.parametrize("stage", ["recipe", "prepare", "train", "evaluate"])
def test_run_at_any_stage(run: Path, stage: str) -> None:
    made = {
        "prepare": ("data", "data/manifest.json"),
        "train": ("training", "metrics.jsonl"),
        "evaluate": ("evaluation", "evaluate.json"),
        "export": ("export", "export.json"),
    }
    later = list(made)[list(made).index(stage) + 1 if stage in made else 0 :]
    for name in later:
        (run / made[name][1]).unlink()
        (run / f"steps/{name}.json").unlink()
    page, numbers = report(run)
    assert numbers["problems"] == []
    missing = [(one["part"], one["command"]) for one in numbers["missing"]]
    assert missing == [(made[name][0], f"groundup {name} {run}") for name in later]
    for name in later:
        assert numbers[made[name][0]] is None
        assert f"yet: groundup {name} {run}" in page.text
    assert [step["status"] for step in numbers["steps"]] == [None if n in later else "done" for n in made]


def test_torn_last_line_is_tolerated_and_garbage_is_told(run: Path) -> None:
    write_metrics(run, METRICS, end='{"kind":"train","step":50,"lo')
    assert collect(run)["problems"] == []
    (run / "metrics.jsonl").write_bytes(b'\xff\xfe\n[1]\n{"step": 3}\n' + (run / "metrics.jsonl").read_bytes())
    page, numbers = report(run)
    assert numbers["problems"] == ["metrics.jsonl: 3 line(s) can't be read and are left out"]
    assert numbers["problems"][0] in page.text
    assert numbers["training"]["lines"] == {"train": 4, "validation": 2}


def test_damaged_file_is_told_and_the_rest_is_shown(run: Path) -> None:
    (run / "data/manifest.json").write_text('{"stages": [')
    (run / "export.json").write_text("[]")
    (run / "recipe.toml").write_text("name = ")
    page, numbers = report(run)
    damaged = [problem.split()[0] for problem in numbers["problems"]]
    assert damaged == ["recipe.toml", "data/manifest.json", "export.json"]
    assert numbers["missing"] == []
    assert numbers["headline"]["bits_per_byte"] == 1.21
    assert "Its file can't be read" in page.text


def test_samples_of_many_steps_keep_the_first_and_the_last(run: Path) -> None:
    lines = [sample_line(s, f"text {s} of {p!r}", p) for s in range(1, 101) for p in ("", "To be")]
    write_metrics(run, [*METRICS[:1], *lines])
    page, numbers = report(run)
    shown = numbers["samples"]["shown"]
    assert numbers["samples"]["steps_sampled"] == 100
    assert (len(shown), shown[0]["step"], shown[-1]["step"]) == (12, 1, 100)
    assert [one["prompt"] for one in shown[5]["texts"]] == ["", "To be"]
    assert "12 of 100 sampled steps" in page.text


def test_long_run_gives_small_files(run: Path) -> None:
    lines = [train_line(s, loss=2 + math.sin(s) / 7, grad_norm=1 + math.cos(s * s) / 3) for s in range(1, 200_001)]
    lines[123_456]["loss"] = 77.5
    lines += [validation_line(s, 2.5) for s in range(50, 200_001, 50)]
    write_metrics(run, lines)
    _, numbers = report(run)
    assert os.path.getsize(run / "report.html") < 1_500_000
    assert os.path.getsize(run / "report.json") < 1_500_000
    found = numbers["training"]["curves"]["train_loss"]
    assert len(found["step"]) == len(found["value"]) == len(found["smoothed"]) <= 2000
    assert (found["step"][0], found["step"][-1]) == (1, 200_000)
    assert found["value"][found["step"].index(123_457)] == max(found["value"]) == 77.5
    assert max(found["smoothed"]) < 2.2
    assert numbers["training"]["lines"] == {"train": 200_000, "validation": 4000}
