"""A small run folder for the tests of the report, and a reader of its page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from groundup.report.page import write_report

RECIPE = """
name = "tiny <run>"
task = "language-model"
[data]
sources = [
    { path = "texts/*.txt", split_on = "a  b" },
]
[train]
duration = "100 steps"
batch_tokens = 1000
"""
MANIFEST = {
    "stages": [
        {"name": "read", "documents_in": 10, "documents_out": 10, "bytes_in": 5000, "bytes_out": 5000}
        | {"seconds": 1.0, "cpu_seconds": 1.5, "dropped": {}},
        {"name": "deduplicate", "documents_in": 10, "documents_out": 7, "bytes_in": 5000, "bytes_out": 3000}
        | {"seconds": 0.5, "cpu_seconds": 0.5, "dropped": {"text seen before": 3}},
    ],
    "splits": {
        "train": {"documents": 6, "tokens": 900, "bytes": 2700},
        "validation": {"documents": 1, "tokens": 100, "bytes": 300},
    },
    "tokenizer": {"sha256": "ab" * 32, "vocab_size": 300, "path": "data/tokenizer", "bytes_per_token": 3.0},
    "sources": [{"name": "texts", "path": "texts/*.txt", "files": 2, "documents": 7, "bytes": 3000, "tokens": 1000}],
    "dtype": "uint16",
    "fingerprint": "cd" * 16,
}
EVALUATION = {
    "loss": 2.5,
    "perplexity": 12.18,
    "bits_per_byte": 1.21,
    "tokens": 100,
    "bytes": 300,
    "step": 40,
}
EXPORT = {
    "path": "export",
    "max_logit_difference": 3e-6,
    "tolerance": 1e-3,
    "architecture": "LlamaForCausalLM",
    "files": {"model.safetensors": "ef" * 32},
}
PLAN = {
    "parameters": {"total": 123456, "embedding": 5000, "active": 123456},
    "flops_per_token": 7.4e5,
    "state_bytes": 1975296,
    "layers": [{"name": "embed", "shape": [300, 16], "parameters": 4800}],
}
LINEAGE = {
    "groundup": {"version": "0.1.0", "commit": "abc"},
    "machine": {"cores": 2, "gpus": []},
    "python": "3.11",
}


def train_line(step: int, **changed: Any) -> dict[str, Any]:
    line = {
        "kind": "train",
        "step": step,
        "samples_consumed": step * 4,
        "tokens": step * 1000,
        "seconds": step * 0.1,
    }
    line |= {"loss": 8 - step / 10, "grad_norm": 1 + step / 100, "lr": step * 1e-5, "peak_share": 0.5}
    return line | {"tokens_per_second": 9000.0 + step, "flops_per_second": 1e9} | changed


def validation_line(step: int, loss: float) -> dict[str, Any]:
    line = {
        "kind": "validation",
        "step": step,
        "samples_consumed": step * 4,
        "tokens": step * 1000,
        "loss": loss,
    }
    return line | {"perplexity": math.exp(loss), "bits_per_byte": loss / 2}


def sample_line(step: int, text: str, prompt: str = "") -> dict[str, Any]:
    return {"kind": "sample", "step": step, "prompt": prompt, "text": text}


METRICS = [
    train_line(10),
    train_line(20),
    validation_line(20, 6.2),
    sample_line(20, "the the"),
    train_line(30),
    train_line(40),
    validation_line(40, 4.2),
    sample_line(40, "a king<|endoftext|>"),
]


def write_metrics(run: Path, lines: list[dict[str, Any]], end: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)


def write_json(run: Path, name: str, content: Any) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(json.dumps(content))


def make_run(within: Path) -> Path:
    """A finished run."""
    folder = within / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    origins = {
        "name": "tiny.toml:1",
        "task": "default",
        "data.sources[0].path": "tiny.toml:4",
        "train.device": "default",
    }
    write_json(folder, "recipe.origins.json", origins | {"train.batch_tokens": "--set"})
    for name, content in [("data/manifest", MANIFEST), ("evaluate", EVALUATION), ("export", EXPORT)]:
        write_json(folder, f"{name}.json", content)
    write_json(folder, "plan.json", PLAN)
    write_json(folder, "lineage.json", LINEAGE)
    write_metrics(folder, METRICS)
    for name, seconds in [("prepare", 2.0), ("train", 1.0), ("evaluate", 0.5), ("export", 0.25)]:
        record = {
            "name": name,
            "fingerprint": name * 3,
            "seconds": seconds,
            "finished": "2026-01-02T03:04:05+0000",
        }
        write_json(folder, f"steps/{name}.json", record | {"result": {}})
    return folder


class Page(HTMLParser):
    """The parsed page: its tags with attributes, and the text a reader sees. Fails on unbalanced tags."""

    EMPTY = frozenset({"meta", "br", "path", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: list[str] = []
        self.content: dict[str, str] = {"script": "", "style": ""}
        self.feed(html)
        self.close()
        assert self.inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in self.content:
            self.content[self.inside[-1]] += data
        else:
            self.text += data


def report(run: Path) -> tuple[Page, dict[str, Any]]:
    page = write_report(run)
    assert page == run / "report.html"
    return Page(page.read_text(encoding="utf-8")), json.loads((run / "report.json").read_text())
