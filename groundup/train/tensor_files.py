"""How torch.distributed.checkpoint writes tensors here and reads them back: plain bytes in one file per rank, and JSON
that says which block of which tensor lies where. So nothing is ever unpickled, and a rank reads the rows it needs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from groundup.train.storage import PORTION, Hashing, Storage, Stream

INDEX = "tensors.json"


@dataclass(frozen=True)
class Place:
    """Where a block lies: `length` bytes from `start` on in a file, whose hash is `checksum`."""

    file: str
    start: int
    length: int
    checksum: str = ""


def as_bytes(tensor: Tensor) -> memoryview:
    """A contiguous host tensor's memory."""
    found: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(found)


class Writer(StorageWriter):
    """Writes into a folder of a storage. `written` is told on the first rank which files there are, by checksum, and
    how many bytes; what it raises is raised on all ranks. `waiting` is told once this rank's file is written."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        written: Callable[[dict[str, str], int], None],
        progress: Callable[[], None],
        waiting: Callable[[bool], None],
    ) -> None:
        self.storage, self.folder, self.written = storage, folder, written
        self.progress, self.waiting = progress, waiting

    def reset(self, checkpoint_id: Any = None) -> None:
        return

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **__: Any) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        name = f"rank-{self.rank}.bin"
        placed: list[tuple[MetadataIndex, int, int]] = []
        done: Future[list[WriteResult]] = Future()
        if not plan.items:
            self.waiting(True)
            done.set_result([])
            return done
        with self.storage.create(f"{self.folder}/{name}") as stream:
            out = Hashing(stream, self.progress)
            for item in plan.items:
                if item.type == WriteItemType.BYTE_IO:
                    raise TypeError(f"{item.index.fqn} is no tensor")
                held: Tensor = planner.resolve_data(item)  # type: ignore[assignment]
                start = out.length
                out.write(as_bytes(held.detach().cpu().contiguous()))
                placed.append((item.index, start, out.length - start))
        self.waiting(True)
        found = out.hash.hexdigest()
        done.set_result(
            [WriteResult(index, length, Place(name, start, length, found)) for index, start, length in placed]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {result.index: result.storage_data for one in results for result in one}
        index = json.dumps(_describe(metadata, places)).encode()
        with self.storage.create(f"{self.folder}/{INDEX}") as stream:
            out = Hashing(stream, self.progress)
            out.write(memoryview(index))
        files = {place.file: place.checksum for place in places.values()}
        length = sum(place.length for place in places.values()) + len(index)
        self.written({**files, INDEX: out.hash.hexdigest()}, length)

    def storage_meta(self) -> StorageMeta | None:
        return None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _describe(metadata: Metadata, places: dict[MetadataIndex, Place]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        blocks = []
        for chunk in entry.chunks:
            # Planners number the blocks of a tensor or not; a place is found by where its block begins.
            place = asdict(places[MetadataIndex(name, chunk.offsets)])
            del place["checksum"]
            blocks.append({"offsets": list(chunk.offsets), "sizes": list(chunk.sizes), **place})
        dtype = str(entry.properties.dtype).removeprefix("torch.")
        found[name] = {"dtype": dtype, "shape": list(entry.size), "blocks": blocks}
    return found


def read_index(stream: Stream) -> tuple[dict[str, TensorStorageMetadata], dict[MetadataIndex, Place]]:
    """Tensors by name, and where their blocks lie."""
    entries, places = {}, {}
    for name, entry in json.loads(stream.read()).items():
        chunks = []
        for block in entry["blocks"]:
            offsets = torch.Size(block["offsets"])
            chunks.append(ChunkStorageMetadata(offsets, torch.Size(block["sizes"])))
            places[MetadataIndex(name, offsets)] = Place(block["file"], block["start"], block["length"])
        properties = TensorProperties(dtype=getattr(torch, entry["dtype"]))
        entries[name] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
    return entries, places


class Reader(StorageReader):
    """Reads from a folder of a storage, whose files have been verified."""

    def __init__(self, storage: Storage, folder: str, progress: Callable[[], None]) -> None:
        self.storage, self.folder, self.progress = storage, folder, progress

    def reset(self, checkpoint_id: Any = None) -> None:
        return

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with self.storage.open(f"{self.folder}/{INDEX}") as stream:
            entries, places = read_index(stream)
        return Metadata(dict(entries), storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any) -> None:
        self.entries, self.places = metadata.state_dict_metadata, metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[tuple[Place, ReadItem]]] = {}
        for item in plan.items:
            index = item.storage_index
            place = self.places[MetadataIndex(index.fqn, index.offset)]
            by_file.setdefault(place.file, []).append((place, item))
        for name, items in by_file.items():
            with self.storage.open(f"{self.folder}/{name}") as stream:
                for place, item in sorted(items, key=lambda found: found[0].start):
                    self._read(stream, place, item, planner)
                    self.progress()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, stream: Stream, place: Place, item: ReadItem, planner: LoadPlanner) -> None:
        """The rows that the item wants of a block, and of these its columns."""
        index = item.storage_index
        entry = self.entries[index.fqn]
        assert isinstance(entry, TensorStorageMetadata)
        sizes = next(chunk.sizes for chunk in entry.chunks if chunk.offsets == index.offset)
        dtype = entry.properties.dtype
        target = planner.resolve_tensor(item).detach()
        first, count = (item.storage_offsets[0], item.lengths[0]) if sizes else (0, 1)
        row = place.length // sizes[0] if sizes else place.length
        # As many rows at a time as make a portion: a resume needs no more memory than a start.
        step = max(1, PORTION // max(1, row))
        for start in range(0, count, step):
            rows = min(step, count - start)
            stream.seek(place.start + (first + start) * row)
            data = bytearray(stream.read(rows * row))
            if len(data) != rows * row:
                raise io.UnsupportedOperation(f"{place.file} ends too early")
            found = torch.frombuffer(data, dtype=dtype)
            if not sizes:
                target.copy_(found.view(()))
                break
            found = found.view(rows, *sizes[1:])
            for dim in range(1, len(sizes)):
                found = found.narrow(dim, item.storage_offsets[dim], item.lengths[dim])
            target.narrow(0, start, rows).copy_(found)
        planner.commit_tensor(item, target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True
