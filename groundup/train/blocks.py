"""Blocks of global tensors as torch.distributed.checkpoint writes and reads them: so a checkpoint holds whole tensors
by name, whatever the layout that wrote it, and any other layout reads the blocks it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

from groundup.parallel.model import local
from groundup.part import Part


class Block(Tensor):
    """What this rank holds of a global tensor, in the memory of what it was made of. torch's planners ask it for its
    place (torch/distributed/_checkpointable.py)."""

    part: Part
    held: Tensor

    def size(self, dim: int | None = None) -> Any:  # type: ignore[override]
        """Of the global tensor, which is what planners compare."""
        return torch.Size(self.part.shape) if dim is None else self.part.shape[dim]

    def _chunk(self) -> ChunkStorageMetadata:
        return ChunkStorageMetadata(torch.Size(self.part.start), torch.Size(self.part.size))

    def __create_write_items__(self, name: str, tensor: Any) -> list[WriteItem]:
        if not self.held.numel():
            return []
        chunk = self._chunk()
        properties = TensorProperties.create_from_tensor(self.held)
        data = TensorWriteData(chunk=chunk, properties=properties, size=torch.Size(self.part.shape))
        index = MetadataIndex(name, chunk.offsets)
        return [WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data)]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [self._chunk()] if self.held.numel() else []

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return self.held


def block(tensor: Tensor, part: Part) -> Tensor:
    """A tensor of which this rank holds the given part, for a checkpoint."""
    held = local(tensor).detach()
    if part.is_whole:
        return held
    found = held.as_subclass(Block)
    found.part, found.held = part, held
    return found
