"""Checkpoints by torch.distributed.checkpoint, whole tensors by name, whatever the layout that wrote them.

All processes of a training call these together. A damaged checkpoint is reported and the one before it used.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_state_dict

from groundup import heartbeat
from groundup.console import say
from groundup.errors import UserError
from groundup.parallel.collectives import agreed
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir
from groundup.train.manifest import (
    FORMAT,
    MANIFEST,
    CheckpointDamaged,
    Checkpoints,
    Manifest,
    checkpoints_of,
    folder_of,
    sealed,
)
from groundup.train.tensor_files import INDEX, Reader, Writer, read_index


def many() -> bool:
    """Whether a training of several processes runs."""
    return dist.is_initialized() and dist.get_world_size() > 1


def _leads() -> bool:
    return not many() or dist.get_rank() == 0


def _together() -> None:
    if many():
        dist.barrier()


@contextmanager
def _one_process() -> Iterator[None]:
    """Without torch's warning that a single process saves or loads, which is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def verify(checkpoints: Checkpoints, step: int) -> Manifest:
    """The manifest, once every file has its checksum; each process reads its share. Raises CheckpointDamaged."""
    if not many():
        return checkpoints.verify(step)
    manifest, wrong = None, ""
    try:
        manifest = checkpoints.verify(step, (dist.get_rank(), dist.get_world_size()))
    except CheckpointDamaged as error:
        wrong = str(error)
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, wrong)
    if any(found):
        raise CheckpointDamaged(next(filter(None, found)))
    assert manifest is not None
    return manifest


def newest(checkpoints: Checkpoints) -> tuple[int, Manifest] | None:
    """Step and manifest of the newest checkpoint that verifies; damaged ones are reported and passed over."""
    # Listings of a shared folder may differ for a while from one process to the next.
    for step in reversed(agreed(checkpoints.complete)):
        try:
            return step, verify(checkpoints, step)
        except CheckpointDamaged as error:
            if _leads():
                say(f"checkpoint {checkpoints.place(step)} is damaged and not used: {error}")
    return None


def best(checkpoints: Checkpoints) -> tuple[int, Manifest] | None:
    """The one that validated best; the newest where none is known or it is damaged."""
    found = newest(checkpoints)
    if found is None or found[1]["best"] is None:
        return found
    step = found[1]["best"]["step"]
    try:
        return step, verify(checkpoints, step)
    except CheckpointDamaged as error:
        say(f"the best checkpoint, {checkpoints.place(step)}, is damaged, so the newest is used: {error}")
        return found


def take_up(checkpoints: Checkpoints) -> tuple[int, Manifest] | None:
    """The checkpoint to go on from, after what a crash left half written is removed."""
    if _leads():
        checkpoints.clean_up()
    _together()
    found = newest(checkpoints)
    if _leads():
        for step in checkpoints.complete():
            # A damaged one that is newer would count as one of those to keep, in place of what is yet to come.
            if found is None or step > found[0]:
                checkpoints.set_aside(step)
    _together()
    return found


def save(
    checkpoints: Checkpoints,
    step: int,
    tensors: dict[str, Tensor],
    facts: dict[str, Any],
    keep_last: int,
    *,
    group: dist.ProcessGroup | None = None,
    nonce: str = "",
    check: Callable[[], None] = lambda: None,
    progress: Callable[[], None] = heartbeat.beat,
) -> None:
    """Write the checkpoint of `step`, then drop those that need not be kept. `facts` must be JSON.

    `nonce`: names this attempt, the same on all processes. `check` is called last before the checkpoint counts, on
    the first; what it raises ends the attempt. Raises OSError, or torch's CheckpointException where a process of
    many failed; then the checkpoints before it are as they were.
    """
    folder, data = folder_of(step), f"data-{nonce or uuid.uuid4().hex[:8]}"

    def written(files: dict[str, str], length: int) -> None:
        check()
        manifest = {"format": FORMAT, "step": step, "data": data, "bytes": length, **facts, "files": files}
        checkpoints.storage.commit(f"{folder}/{MANIFEST}", sealed(manifest))

    try:
        with _one_process():
            save_state_dict(
                dict(tensors),
                storage_writer=Writer(checkpoints.storage, f"{folder}/{data}", written, progress),
                process_group=group,
                no_dist=not many(),
            )
    except BaseException:
        if _leads():
            checkpoints.give_up(folder, data)
        raise
    if _leads():
        for name in checkpoints.storage.names(folder):  # of an earlier checkpoint of the same step
            if name.startswith("data-") and name != data:
                checkpoints.storage.remove(f"{folder}/{name}")
        try:
            checkpoints.prune(keep_last)
        except (OSError, CheckpointDamaged) as error:
            say(f"old checkpoints in {checkpoints.storage.place} can't be dropped: {error}")


def shapes(checkpoints: Checkpoints, step: int) -> dict[str, TensorStorageMetadata]:
    """What tensors a verified checkpoint holds."""
    with checkpoints.storage.open(f"{checkpoints.data(step)}/{INDEX}") as stream:
        return read_index(stream)[0]


def load(checkpoints: Checkpoints, step: int, tensors: dict[str, Tensor]) -> None:
    """Read into the tensors given, in place. The checkpoint must have been verified."""
    reader = Reader(checkpoints.storage, checkpoints.data(step), heartbeat.beat)
    with _one_process():
        load_state_dict(dict(tensors), storage_reader=reader, no_dist=not many())


def load_model(checkpoints: Checkpoints, step: int, model: nn.Module) -> None:
    """Only the weights and buffers of a model."""
    load(checkpoints, step, {f"model.{name}": tensor for name, tensor in model.state_dict().items()})


def chosen(recipe: Recipe, run: RunDir) -> tuple[Checkpoints, int, Manifest]:
    """The checkpoint that evaluation and export are about. Raises UserError where there is none."""
    checkpoints = checkpoints_of(recipe, run)
    found = best(checkpoints) if recipe.evaluate.checkpoint == "best" else newest(checkpoints)
    if found is None:
        raise UserError(
            "no checkpoint is here", where=checkpoints.storage.place, advice=f"Run: groundup train {run.path}"
        )
    return checkpoints, *found
