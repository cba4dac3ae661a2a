"""Checkpoints by torch.distributed.checkpoint: tensors in its files, everything else in a JSON manifest.

`checkpoints/step-00000120/` is complete once its `manifest.json`, with a checksum per file, has been renamed into
place. Anything else is left over from a crash and cleaned up. A damaged one is reported and the one before it used.
"""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_state_dict

from groundup import heartbeat
from groundup.console import say
from groundup.data.shards import checksum
from groundup.errors import UserError
from groundup.rundir import read_json, write_atomically

FORMAT = 2
# What torch.distributed.checkpoint's metadata is made of; nothing else is unpickled.
_ALLOWED = {
    "torch": {"Size", "float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool", "strided"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path"},
}


class CheckpointDamaged(Exception):
    """A checkpoint whose files are not those of its manifest."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise CheckpointDamaged(f"its metadata names {module}.{name}, which no checkpoint of ours does")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """Reads metadata through the allow-list, and refuses anything but tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _Unpickler(file).load()
        for name, entry in metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):
                raise CheckpointDamaged(f"{name} is no tensor")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _many() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def _one_process() -> Iterator[None]:
    """Without torch's warning that a single process saves or loads, which is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def complete(root: Path) -> list[Path]:
    """Folders with a manifest, oldest first."""
    return sorted(p.parent for p in root.glob("step-*/manifest.json"))


def take_up(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, after what a crash left half written is removed. For one process of the run."""
    clean_up(root)
    found = newest(root)
    for folder in complete(root):
        # A damaged one that is newer would count as one of those to keep, in place of what is written from here on.
        if found is None or folder > found[0]:
            folder.rename(folder.with_name(f"damaged-{folder.name}"))
    return found


def clean_up(root: Path) -> None:
    """Remove what a crash left half written. Only for the holder of the run's lock."""
    for path in root.glob("step-*"):
        if not (path / "manifest.json").exists():
            shutil.rmtree(path)


def save(root: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint of `step`; keep the newest `keep` and the best. `facts` must be JSON."""
    folder = folder_of(root, step)
    leads = not _many() or dist.get_rank() == 0
    if leads:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if _many():
        dist.barrier()
    with _one_process():
        save_state_dict(dict(tensors), storage_writer=FileSystemWriter(folder), no_dist=not _many())
    files = _checksums(folder)
    if leads:
        manifest = {"format": FORMAT, "step": step, **facts, "files": files}
        write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))
        _drop_old(root, keep, facts)
    if _many():
        dist.barrier()
    return folder


def _checksums(folder: Path) -> dict[str, str]:
    """Of every file of the checkpoint, by name; each process reads those it wrote."""
    if not _many():
        return {p.name: checksum(p) for p in sorted(folder.iterdir())}
    rank = dist.get_rank()
    mine = [*folder.glob(f"__{rank}_*.distcp"), *([folder / ".metadata"] if rank == 0 else [])]
    found: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, {p.name: checksum(p) for p in mine})
    return {name: value for part in found for name, value in sorted(part.items())}


def _drop_old(root: Path, keep: int, facts: dict[str, Any]) -> None:
    best = facts.get("best")
    for old in complete(root)[:-keep]:
        if best is not None and old == folder_of(root, best["step"]):
            continue
        # The manifest goes first: a deletion cut short leaves an incomplete checkpoint, not a damaged one.
        (old / "manifest.json").unlink()
        shutil.rmtree(old)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, once every file has its checksum. Raises CheckpointDamaged."""
    manifest: dict[str, Any] | None = read_json(folder / "manifest.json")
    if manifest is None:
        raise CheckpointDamaged("its manifest is missing")
    if manifest.get("format") != FORMAT:
        raise CheckpointDamaged(f"its format is {manifest.get('format')}, this version reads {FORMAT}")
    for name, expected in manifest["files"].items():
        heartbeat.beat()
        path = folder / name
        if not path.exists():
            raise CheckpointDamaged(f"{name} is missing")
        if checksum(path) != expected:
            raise CheckpointDamaged(f"{name} does not have the checksum in the manifest")
    return manifest


def newest(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that verifies, with its manifest; damaged ones are reported and passed over."""
    for folder in reversed(complete(root)):
        try:
            return folder, verify(folder)
        except CheckpointDamaged as error:
            say(f"checkpoint {folder} is damaged and not used: {error}")
    return None


def best(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that validated best, with its manifest; the newest where none is known or it is damaged."""
    found = newest(root)
    if found is None or found[1]["best"] is None:
        return found
    folder = folder_of(root, found[1]["best"]["step"])
    try:
        return folder, verify(folder)
    except (CheckpointDamaged, UserError) as error:
        say(f"the best checkpoint, {folder}, is damaged, so the newest is used: {error}")
        return found


def shapes(folder: Path) -> dict[str, TensorStorageMetadata]:
    """What tensors a verified checkpoint holds."""
    return dict(_Reader(folder).read_metadata().state_dict_metadata)  # type: ignore[arg-type]


def load(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Read into the tensors given, in place. The folder must have been verified."""
    with _one_process():
        load_state_dict(dict(tensors), storage_reader=_Reader(folder), no_dist=not _many())


def load_model(folder: Path, model: nn.Module) -> None:
    """Only the weights and buffers of a model."""
    load(folder, {f"model.{name}": tensor for name, tensor in model.state_dict().items()})
