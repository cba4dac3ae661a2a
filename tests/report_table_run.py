"""Small run folders of tables and of a search, for the tests of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from groundup.evaluate.classification import full_metrics
from tests.report_run import LINEAGE, write_json, write_metrics

RECIPE = """
name = {name}
task = "classification"
[data]
path = "table.csv"
target = "kind"
[train]
duration = "5 epochs"
batch_rows = 64
best_metric = "accuracy"
[evaluate]
checkpoint = "best"
[tune]
trials = 12
"""


def split_counts(labels: list[Any], rows: int) -> dict[str, dict[str, Any]]:
    """Parts of a table whose first class has the most rows."""
    shares = {"train": 0.72, "validation": 0.08, "test": 0.2}
    weight = [1 / (1 + k / 10) for k in range(len(labels))]
    splits = {}
    for name, share in shares.items():
        classes = {str(x): round(rows * share * w / sum(weight)) for x, w in zip(labels, weight, strict=True)}
        splits[name] = {"rows": sum(classes.values()), "classes": classes}
    return splits


def table_columns(many: int) -> list[dict[str, Any]]:
    """Of every kind; the second one is constant."""
    columns = []
    for k in range(many):
        kind = ("number", "number", "category", "boolean")[k % 4]
        column: dict[str, Any] = {"name": f"column_{k}", "kind": kind, "missing": k % 3}
        column |= {"constant": k == 1, "distinct": 1 if k == 1 else 9 + k}
        known = kind == "number"
        numbers = {"mean": k + 0.5, "std": 0.0 if k == 1 else 1.25, "min": -float(k), "max": 2.0 * k}
        columns.append(column | (numbers if known else dict.fromkeys(numbers)))
    return columns


def table_manifest(labels: list[Any], columns: int, rows: int = 10_000) -> dict[str, Any]:
    def stage(name: str, before: int, after: int, dropped: dict[str, int] | None = None) -> dict[str, Any]:
        counts: dict[str, Any] = {"name": name, "documents_in": before, "documents_out": after}
        counts |= {"bytes_in": before * 100, "bytes_out": after * 100, "dropped": dropped or {}}
        return counts | {"seconds": 0.5, "cpu_seconds": 0.9}

    read = rows + 750
    return {
        "task": "classification",
        "fingerprint": "ab" * 16,
        "target": "kind",
        "stages": [
            stage("read", read, read),
            stage("clean", read, rows + 150, {"a value is missing": 597, "the target is missing": 3}),
            stage("exact_dedup", rows + 150, rows, {"row seen before": 150}),
            stage("split", rows, rows),
            stage("scale", rows, rows),
        ],
        "rows": rows,
        "splits": split_counts(labels, rows),
        "classes": labels,
        "features": columns + 3,
        "columns": table_columns(columns),
        "warnings": ["the same value in all training rows: 'column_1'"],
        "peak_memory_mb": 312.5,
    }


def evaluation_of(labels: list[Any], rows: int, step: int, blur: float = 1.5) -> dict[str, Any]:
    """Of a classifier that is right as often as `blur` lets it be; neighbouring classes look alike."""
    random = np.random.default_rng(7)
    classes = len(labels)
    truth = random.integers(0, classes, rows)
    seen = truth + random.normal(0, blur * (0.3 + truth / classes / 2), rows)
    logits = -((seen[:, None] - np.arange(classes)[None]) ** 2)
    return full_metrics([(logits, truth)], rows, labels) | {"part": "test", "step": step}


def table_metrics(steps: int, every: int = 10) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    lines: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        counted = {"step": step, "samples_consumed": step * 64}
        loss = 0.15 + 2.2 * math.exp(-step / 150) + random.normal(0, 0.03)
        line = {"kind": "train", **counted, "rows": step * 64, "seconds": step * 0.01, "loss": loss}
        line |= {"grad_norm": 0.5 + random.random(), "lr": 1e-3 * (1 - step / steps / 1.2)}
        line["rows_per_second"] = 52_000.0 + step
        lines.append(line | {"flops_per_second": 4e10, "peak_share": 0.31})
        if step % (every * 10) == 0:
            right = 0.97 - 0.6 * math.exp(-step / 160) - (0.05 if step == steps else 0)
            scores = {"loss": loss + 0.1, "accuracy": right, "f1_weighted": right - 0.004, "f1_macro": right - 0.02}
            lines.append({"kind": "validation", **counted, **scores})
    return lines


def make_table_run(
    within: Path, labels: list[Any], *, columns: int = 12, rows: int = 10_000, steps: int = 600, name: str = "table"
) -> Path:
    """A finished run of a classifier. Its best validation is the last but one."""
    folder = within / "runs" / name
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(name=json.dumps(name)))
    manifest = table_manifest(labels, columns, rows)
    write_json(folder, "data/manifest.json", manifest)
    write_json(folder, "evaluate.json", evaluation_of(labels, manifest["splits"]["test"]["rows"], steps - 100))
    export = {"path": "export", "max_logit_difference": 2e-3, "relative_difference": 1e-4, "tolerance": 1e-3}
    export |= {"checked": "raw rows", "rows": 256, "files": {"model.onnx": "ef" * 32}}
    write_json(folder, "export.json", export)
    layers = [{"name": "layers.0.linear.weight", "shape": [512, columns], "parameters": 512 * columns}]
    plan = {"parameters": {"total": 646_154, "matrices": 645_376}, "flops_per_row": 2.9e6, "state_bytes": 10_338_464}
    write_json(folder, "plan.json", plan | {"layers": layers})
    write_json(folder, "lineage.json", LINEAGE)
    write_metrics(folder, table_metrics(steps))
    for step, seconds in [("prepare", 2.0), ("train", 6.0), ("evaluate", 0.5), ("export", 0.25)]:
        record = {"name": step, "fingerprint": step * 3, "seconds": seconds, "finished": "2026-01-02T03:04:05+0000"}
        write_json(folder, f"steps/{step}.json", record | {"result": {}})
    return folder


def search(trials: int = 12) -> dict[str, Any]:
    """Every fourth trial is pruned at step 40, the sixth failed; the best one's value is the lowest."""
    random = np.random.default_rng(5)
    found: list[dict[str, Any]] = []
    for number in range(trials):
        lr, dropout = 10 ** random.uniform(-4.5, -1.5), random.uniform(0, 0.6)
        kind = ("adamw", "sgd", "muon")[number % 3]
        value = 0.2 + 0.1 * (math.log10(lr) + 3) ** 2 + 0.05 * dropout + (0.08 if kind == "sgd" else 0)
        values = {"optim.lr": lr, "model.dropout": dropout, "optim.optimizer": kind}
        trial: dict[str, Any] = {
            "number": number,
            "state": "complete",
            "values": values,
            "value": value,
            "seconds": 3.5,
        }
        trial["reason"] = None
        trial["steps"] = [[step, value * (1 + 20 / step)] for step in (20, 40, 60, 80)]
        if number % 4 == 3:
            trial |= {"state": "pruned", "value": None, "steps": trial["steps"][:2], "seconds": 1.5}
        if number == 5:
            trial |= {"state": "failed", "value": None, "steps": [], "reason": "the loss is nan at step 12"}
        found.append(trial)
    best = min((one for one in found if one["state"] == "complete"), key=lambda one: one["value"])
    rates = [10 ** (-6 + k / 20) for k in range(121)]
    smoothed = [2.3 - 1.6 / (1 + math.exp(-(math.log10(r) + 3.2) * 4)) + max(0.0, r - 0.05) * 9 for r in rates]
    return {
        "metric": "loss",
        "direction": "minimize",
        "best": best["values"],
        "best_value": best["value"],
        "best_trial": best["number"],
        "trials": found,
        "importance": {"optim.lr": 0.71, "model.dropout": 0.08, "optim.optimizer": 0.21},
        "range_test": {
            "lr": rates,
            "loss": [v + random.normal(0, 0.06) for v in smoothed],
            "smoothed": smoothed,
            "suggestion": 6.5e-4,
        },
    }


def make_search(within: Path, trials: int = 12) -> Path:
    """A folder in which a search was done and nothing was trained."""
    folder = within / "runs" / "searched"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE.format(name='"searched"'))
    write_json(folder, "data/manifest.json", table_manifest([0, 1, 2], 6))
    write_json(folder, "lineage.json", LINEAGE)
    record = {"name": "prepare", "fingerprint": "p", "seconds": 2.0, "finished": "2026-01-02T03:04:05+0000"}
    write_json(folder, "steps/prepare.json", record | {"result": {}})
    write_json(folder, "tune.json", search(trials))
    (folder / "best.toml").write_text("name = 'searched'\n")
    return folder
