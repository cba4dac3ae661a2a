"""What `groundup checkpoint` tells and does: every checkpoint of a run, whole or not. Needs no torch."""

from __future__ import annotations

from typing import Any

from groundup.console import Bar
from groundup.errors import UserError
from groundup.train.manifest import CheckpointDamaged, Checkpoints, step_of


def inventory(checkpoints: Checkpoints, *, verify: bool) -> list[dict[str, Any]]:
    """One entry per folder. `verified`: None where the files were not read, else whether they are those of the
    manifest; `problem` says why not."""
    folders = [name for name in checkpoints.names() if step_of(name.removeprefix("damaged-")) is not None]
    found = []
    with Bar("verify" if verify else "look", len(folders), "checkpoints") as bar:
        for folder in folders:
            found.append(_entry(checkpoints, folder, verify))
            bar.advance(1)
    return found


def _entry(checkpoints: Checkpoints, folder: str, verify: bool) -> dict[str, Any]:
    step = step_of(folder.removeprefix("damaged-"))
    assert step is not None
    entry: dict[str, Any] = {
        "step": step,
        "samples_consumed": None,
        "complete": False,
        "verified": None,
        "bytes": None,
        "layout": None,
    }
    if folder.startswith("damaged-"):
        return entry | {"verified": False, "problem": "set aside as damaged"}
    try:
        manifest = checkpoints.manifest(step)
        entry |= {key: manifest[key] for key in ("samples_consumed", "bytes", "layout")} | {"complete": True}
        if verify:
            checkpoints.verify(step)
            entry["verified"] = True
    except CheckpointDamaged as error:
        entry |= {"verified": False, "problem": str(error)}
    return entry


def prune(checkpoints: Checkpoints, keep_last: int) -> dict[str, Any]:
    """Drop what need not be kept, what is damaged, and what crashes left behind; what is left, and what was dropped.
    For the holder of the run's lock. Raises UserError where no checkpoint would be left."""
    entries = inventory(checkpoints, verify=True)
    if any(entry["complete"] for entry in entries) and not any(entry["verified"] for entry in entries):
        raise UserError(
            "no checkpoint here verifies, so none is removed",
            where=checkpoints.storage.place,
            advice="Look at them with `groundup checkpoint verify`",
        )
    for entry in entries:
        if entry["complete"] and not entry["verified"]:
            checkpoints.set_aside(entry["step"])  # or it would count as one of the last
    left_over = checkpoints.clean_up()
    damaged = checkpoints.drop_damaged()
    dropped = checkpoints.prune(keep_last)
    return {
        "checkpoints": inventory(checkpoints, verify=False),
        "dropped": dropped,
        "left_over": [*left_over, *damaged],
    }


def table(entries: list[dict[str, Any]]) -> str:
    """For people."""
    rows = [("step", "samples", "MB", "layout", "state")]
    for entry in entries:
        state = entry.get("problem") or {True: "verified", None: "complete", False: "damaged"}[entry["verified"]]
        layout = " x ".join(f"{name} {degree}" for name, degree in (entry["layout"] or {}).items() if degree > 1)
        size = "" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:,.1f}"
        samples = "" if entry["samples_consumed"] is None else f"{entry['samples_consumed']:,}"
        rows.append((str(entry["step"]), samples, size, layout or ("single process" if entry["layout"] else ""), state))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row[:4], widths, strict=True)), row[4]]) for row in rows
    )
