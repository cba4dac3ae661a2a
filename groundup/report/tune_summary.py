"""What a search found, from `tune.json`: its trials in their order, and the best value after each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.report.figures import number, records

STATES = ("complete", "pruned", "failed", "running")


def summarise_search(run: Path, found: dict[str, Any] | None, asked: Any) -> dict[str, Any] | None:
    """The file's contents with what follows from them; None without a file.

    Added are `counts` of trials by state, `seconds` of all trials, `best_so_far` (after each trial, in their
    order), `keys` (what was searched), `asked` (trials that the recipe asks for) and `recipe` (the path of
    the best recipe, where it was written). A pruned trial without a `value` gets the last one that
    it reached.
    """
    if found is None:
        return None
    trials = sorted(map(_trial, records(found.get("trials"))), key=lambda trial: trial["number"])
    better = max if found.get("direction") == "maximize" else min
    best: float | None = None
    so_far = []
    for trial in trials:
        if trial["state"] == "complete" and trial["value"] is not None:
            best = trial["value"] if best is None else better(best, trial["value"])
        so_far.append(best)
    path = run / "best.toml"
    return {
        **found,
        "trials": trials,
        "counts": {state: sum(trial["state"] == state for trial in trials) for state in STATES},
        "seconds": sum(number(trial.get("seconds")) or 0 for trial in trials),
        "best_so_far": so_far,
        "keys": list(dict.fromkeys(key for trial in trials for key in trial["values"])),
        "asked": number(asked),
        "recipe": str(path) if path.is_file() else None,
    }


def _trial(found: dict[str, Any]) -> dict[str, Any]:
    values, steps = found.get("values"), found.get("steps")
    value = number(found.get("value"))
    reached = [pair for pair in steps if isinstance(pair, list) and len(pair) == 2] if isinstance(steps, list) else []
    if value is None and found.get("state") == "pruned" and reached:
        value = number(reached[-1][1])
    return {
        **found,
        "number": number(found.get("number")) or 0,
        "state": found.get("state"),
        "values": values if isinstance(values, dict) else {},
        "steps": reached,
        "value": value,
    }
