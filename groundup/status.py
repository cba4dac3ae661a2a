"""What a run is doing, from its files alone."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from groundup.rundir import RunDir, read_json


def _last_metrics(run: RunDir, kind: str) -> dict[str, Any]:
    """The last whole record of a kind."""
    found: dict[str, Any] = {}
    if run.metrics.exists():
        with run.metrics.open("rb") as lines:
            for line in lines:
                if f'"kind": "{kind}"'.encode() in line:
                    with suppress(json.JSONDecodeError):  # a kill tears a line
                        found = json.loads(line)
    return found


def status(run: RunDir) -> dict[str, Any]:
    """state: running (a process holds the folder), finished (training is done), interrupted (it can go on), prepared,
    or new."""
    last, validation = _last_metrics(run, "train"), _last_metrics(run, "validation")
    manifests = [read_json(p) for p in sorted(run.checkpoints.glob("step-*/manifest.json"))]
    newest = manifests[-1] if manifests else {}
    if run.busy():
        state = "running"
    elif run.record("train") is not None:
        state = "finished"
    elif last or newest:
        state = "interrupted"
    else:
        state = "prepared" if run.record("prepare") is not None else "new"
    return {
        "state": state,
        "name": run.recipe_name(),
        "step": last.get("step", newest.get("step", 0)),
        "samples_consumed": last.get("samples_consumed", newest.get("samples_consumed", 0)),
        "last_checkpoint_step": newest.get("step"),
        "checkpoints": [m["step"] for m in manifests],
        "loss": last.get("loss"),
        "validation_loss": validation.get("loss"),
        "bits_per_byte": validation.get("bits_per_byte"),
        "tokens_per_second": last.get("tokens_per_second"),
        "steps_done": [s for s in ("prepare", "train", "evaluate", "export") if run.record(s) is not None],
    }
