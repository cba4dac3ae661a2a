"""What a run is doing, from its files alone."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

from groundup.recipe.load import load
from groundup.rundir import RunDir, read_json
from groundup.train.manifest import CheckpointDamaged, Manifest, checkpoints_of

# A job is stuck that gives no sign of life for so many of its usual steps, and at least so many seconds. It is slow
# where it does, but the step it is in takes so many times the usual. Before its first step it makes the model, and may
# compile it, which gives no sign for long.
STUCK_STEPS, STUCK_SECONDS, STUCK_AT_START = 20, 60.0, 600.0
SLOW_STEPS, SLOW_SECONDS = 5, 10.0


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


def _manifests(run: RunDir) -> list[Manifest]:
    """Of the complete checkpoints, oldest first."""
    if not run.recipe_file.exists():
        return []
    checkpoints, found = checkpoints_of(load(run.recipe_file).recipe, run), []
    for step in checkpoints.complete():
        with suppress(CheckpointDamaged):
            found.append(checkpoints.manifest(step))
    return found


def _process_ended(pulse: dict[str, Any]) -> bool:
    """Whether the process that gave the sign of life is known to be gone."""
    if pulse["host"] != socket.gethostname():
        return False
    try:
        os.kill(pulse["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def pulse_state(pulse: dict[str, Any], now: float) -> str:
    """running, slow or stuck, of a training whose process is there."""
    usual = pulse["seconds_per_step"] or 0.0
    patience = STUCK_AT_START if pulse["step"] is None else max(STUCK_SECONDS, STUCK_STEPS * usual)
    if now - pulse["time"] > patience:
        return "stuck"
    if pulse["step"] is None:
        return "running"
    return "slow" if now - pulse["step_time"] > max(SLOW_SECONDS, SLOW_STEPS * usual) else "running"


def status(run: RunDir) -> dict[str, Any]:
    """state: running, slow or stuck (a process works in the folder; by its last sign of life), finished (training is
    done), interrupted (it can go on), prepared, or new."""
    last, validation = _last_metrics(run, "train"), _last_metrics(run, "validation")
    manifests = _manifests(run)
    newest = manifests[-1] if manifests else {}
    pulse, now = read_json(run.heartbeat), time.time()
    alive = pulse is not None and not _process_ended(pulse)
    if alive and (run.busy() or pulse_state(pulse, now) != "stuck"):
        state = pulse_state(pulse, now)
    elif run.busy():
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
        "seconds_since_step": round(now - pulse["step_time"], 1) if alive else None,
        "seconds_since_sign_of_life": round(now - pulse["time"], 1) if alive else None,
        "seconds_per_step": pulse["seconds_per_step"] if alive else None,
        "last_checkpoint_step": newest.get("step"),
        "checkpoints": [m["step"] for m in manifests],
        "loss": last.get("loss"),
        "validation_loss": validation.get("loss"),
        "bits_per_byte": validation.get("bits_per_byte"),
        "tokens_per_second": last.get("tokens_per_second"),
        "steps_done": [s for s in ("prepare", "train", "evaluate", "export") if run.record(s) is not None],
    }
