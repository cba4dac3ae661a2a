"""What `groundup checkpoint` tells and does: every checkpoint of a run, whole or not. Needs no torch."""

from __future__ import annotations

from typing import Any

from groundup.console import Bar
from groundup.train.manifest import CheckpointDamaged, Checkpoints


def inventory(checkpoints: Checkpoints, *, verify: bool) -> list[dict[str, Any]]:
    """One entry per folder. `verified`: None where the files were not read, else whether they are those of the
    manifest; `problem` says why not."""
    folders = [name for name in checkpoints.storage.names() if name.partition("step-")[2].isdigit()]
    found = []
    with Bar("verify" if verify else "look", len(folders), "checkpoints") as bar:
        for folder in folders:
            found.append(_entry(checkpoints, folder, verify))
            bar.advance(1)
    return found


def _entry(checkpoints: Checkpoints, folder: str, verify: bool) -> dict[str, Any]:
    step = int(folder.partition("step-")[2])
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
    For the holder of the run's lock."""
    for entry in inventory(checkpoints, verify=True):
        if entry["complete"] and not entry["verified"]:
            checkpoints.set_aside(entry["step"])  # or it would count as one of the last
    left_over = checkpoints.clean_up()
    damaged = [name for name in checkpoints.storage.names() if name.startswith("damaged-step-")]
    for name in damaged:
        checkpoints.storage.remove(name)
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
