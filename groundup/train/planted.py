"""Faults in a task's samples, where GROUNDUP_FAULTS asks for them (see groundup/faults.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from groundup import faults
from groundup.data.batches.batch import Batch
from groundup.tasks.task import Task


def planted(task: Task) -> Task:
    """The task, with the faults that are asked for in its training stream."""
    always, once, large = (set(faults.asked(kind) or ()) for kind in ("nan", "flip", "spike"))
    folder = faults.asked("fetched")
    if not (always or once or large or folder):
        return task
    fetch = task.batch

    def batch(start: int, stop: int) -> Any:
        found: Any = fetch(start, stop)
        if folder:
            _note(Path(folder), start, stop, found)
        here = set(range(start, stop))
        hit = (always | once) & here
        once.difference_update(here)
        if large & here:
            found = _mislabelled(found, (number - start for number in large & here))
        return _spoilt(found, (number - start for number in hit)) if hit else found

    task.batch = batch  # type: ignore[method-assign]
    return task


def _spoilt(batch: Any, rows: Iterable[int]) -> Any:
    name = "weights_BL" if isinstance(batch, Batch) else "weights_B"
    weights: Tensor = getattr(batch, name).clone()
    weights[list(rows)] = torch.nan
    return replace(batch, **{name: weights})


def _mislabelled(batch: Batch, rows: Iterable[int]) -> Batch:
    """Token 0 is the byte 0, which texts don't hold, so that a model soon learns not to expect it."""
    labels_BL = batch.labels_BL.clone()
    labels_BL[list(rows)] = 0
    return replace(batch, labels_BL=labels_BL)


def digest(batch: Any) -> str:
    """Hash of a batch's inputs and labels."""
    inputs, labels = (
        (batch.tokens_BL, batch.labels_BL) if isinstance(batch, Batch) else (batch.features_BF, batch.labels_B)
    )
    found = xxhash.xxh3_64()
    for tensor in (inputs, labels):
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _note(folder: Path, start: int, stop: int, batch: Any) -> None:
    """One line: the samples, and their hash."""
    line = json.dumps({"start": start, "stop": stop, "xxh3": digest(batch)})
    with (folder / f"fetched-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
