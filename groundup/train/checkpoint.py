"""Checkpoints by torch.distributed.checkpoint, whole tensors by name, whatever the layout that wrote them.

All processes of a training call these together. A damaged checkpoint is reported and the one before it used.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
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
    answering,
    checkpoints_of,
    folder_of,
    sealed,
)
from groundup.train.storage import NotCommitted
from groundup.train.tensor_files import INDEX, Reader, Writer, read_index


def many() -> bool:
    """Whether a training of several processes runs."""
    return dist.is_initialized() and dist.get_world_size() > 1


def _leads() -> bool:
    return not many() or dist.get_rank() == 0


@contextmanager
def _one_process() -> Iterator[None]:
    """Without torch's warning that a single process saves or loads, which is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def patient_group() -> dist.ProcessGroup | None:
    """For collectives in which a process may wait long for others that read or write; None of a process alone."""
    return dist.new_group(backend="gloo", timeout=timedelta(days=7)) if many() else None


def wait_for_all(group: dist.ProcessGroup | None) -> None:
    """Until all processes are here. Those that wait give signs of life: one that hangs has a watchdog of its own."""
    if not many():
        return
    work = dist.all_reduce(torch.zeros(1), group=group, async_op=True)
    while not work.is_completed():
        heartbeat.beat()
        time.sleep(0.01)
    work.wait()


def verify(checkpoints: Checkpoints, step: int, group: dist.ProcessGroup | None = None) -> Manifest:
    """The manifest, once every file has its checksum; each process reads its share. Raises CheckpointDamaged where the
    first process finds it so too, UserError where only others do."""
    if not many():
        return checkpoints.verify(step)
    manifest, wrong = None, ""
    try:
        manifest = checkpoints.verify(step, (dist.get_rank(), dist.get_world_size()))
    except CheckpointDamaged as error:
        wrong = str(error)
    wait_for_all(group)
    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, wrong, group=group)
    if not any(found):
        assert manifest is not None
        return manifest
    # Storage that nodes share may show a file late on some of them, or they may share none.
    again = ""
    if _leads():
        try:
            checkpoints.verify(step)
        except CheckpointDamaged as error:
            again = str(error)
    wait_for_all(group)
    again = agreed(lambda: again)
    if again:
        raise CheckpointDamaged(again)
    rank = next(rank for rank, text in enumerate(found) if text)
    raise UserError(
        f"this checkpoint is whole for the first process, and not for that of rank {rank}: {found[rank]}",
        where=checkpoints.place(step),
        advice="All nodes need the same folder on storage that they share. If they have it, try again",
    )


def newest(checkpoints: Checkpoints, group: dist.ProcessGroup | None = None) -> tuple[int, Manifest] | None:
    """Step and manifest of the newest checkpoint that verifies; damaged ones are reported and passed over."""
    # Listings of a shared folder may differ for a while from one process to the next.
    for step in reversed(agreed(checkpoints.complete)):
        try:
            return step, verify(checkpoints, step, group)
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


def take_up(checkpoints: Checkpoints, group: dist.ProcessGroup | None = None) -> tuple[int, Manifest] | None:
    """The checkpoint to go on from, after what a crash left half written is removed. Raises UserError where there are
    checkpoints and none is whole: to begin anew is not for us to choose."""
    if _leads():
        checkpoints.clean_up()
    wait_for_all(group)
    found = newest(checkpoints, group)
    if found is None and agreed(lambda: bool(checkpoints.complete())):
        raise UserError(
            "no checkpoint here is whole, so there is none to go on from",
            where=checkpoints.storage.place,
            advice="Nothing was changed. Bring back what is missing, or begin anew with --restart",
        )
    _set_aside_newer(checkpoints, found, group)
    return found


def go_back_to(checkpoints: Checkpoints, group: dist.ProcessGroup | None = None) -> tuple[int, Manifest] | None:
    """The checkpoint to go back to in the middle of a training, while none is written; None where none is whole."""
    found = newest(checkpoints, group)
    _set_aside_newer(checkpoints, found, group)
    return found


def _set_aside_newer(
    checkpoints: Checkpoints, found: tuple[int, Manifest] | None, group: dist.ProcessGroup | None
) -> None:
    """A damaged one that is newer would count as one of those to keep, in place of what is yet to come."""
    if _leads():
        for step in checkpoints.complete():
            if found is None or step > found[0]:
                checkpoints.set_aside(step)
    wait_for_all(group)


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
    waiting: Callable[[bool], None] = lambda _: None,
) -> None:
    """Write the checkpoint of `step`, then drop those that need not be kept. `facts` must be JSON.

    `nonce`: names this attempt, the same on all processes. `check` is called last before the checkpoint counts, on
    the first; what it raises ends the attempt. Raises OSError, or torch's CheckpointException where a process of
    many failed; then the checkpoints before it are as they were. `waiting` is told True where this process has only
    others to wait for, False where it has work again.
    """
    folder, data = folder_of(step), f"data-{nonce or uuid.uuid4().hex[:8]}"
    counts = False  # as far as is known

    def written(files: dict[str, str], length: int) -> None:
        nonlocal counts
        waiting(False)
        check()
        manifest = {"format": FORMAT, "step": step, "data": data, "bytes": length, **facts, "files": files}
        counts = True  # a failure that comes now may come after the manifest has its place
        try:
            checkpoints.storage.commit(f"{folder}/{MANIFEST}", sealed(manifest), f"{folder}/{data}")
        except NotCommitted:
            counts = False
            raise

    try:
        with _one_process():
            save_state_dict(
                dict(tensors),
                storage_writer=Writer(checkpoints.storage, f"{folder}/{data}", written, progress, waiting),
                process_group=group,
                no_dist=not many(),
            )
    except BaseException:
        if _leads() and not counts:
            with suppress(UserError):  # the failure that is told is the one before
                checkpoints.give_up(folder, data)
        raise
    if _leads():
        try:
            for name in checkpoints.names(folder):  # of an earlier checkpoint of the same step
                if name.startswith("data-") and name != data:
                    checkpoints.storage.remove(f"{folder}/{name}")
            checkpoints.prune(keep_last)
        except Exception as error:  # whatever it is: the checkpoint is there, and all processes must take it so
            say(f"old checkpoints in {checkpoints.storage.place} can't be dropped: {error}")


def shapes(checkpoints: Checkpoints, step: int) -> dict[str, TensorStorageMetadata]:
    """What tensors a verified checkpoint holds."""
    with answering(checkpoints.place(step)), checkpoints.storage.open(f"{checkpoints.data(step)}/{INDEX}") as stream:
        return read_index(stream)[0]


def load(
    checkpoints: Checkpoints, step: int, tensors: dict[str, Tensor], group: dist.ProcessGroup | None = None
) -> None:
    """Read into the tensors given, in place. The checkpoint must have been verified."""
    reader = Reader(checkpoints.storage, checkpoints.data(step), heartbeat.beat)
    # Each process knows by itself what it must read.
    with _one_process(), answering(checkpoints.place(step)):
        load_state_dict(dict(tensors), storage_reader=reader, no_dist=True)
    wait_for_all(group)


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
