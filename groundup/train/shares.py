"""Which blocks of a checkpoint each rank writes. Ranks of a replicated layout hold the same blocks, and one of them
writes each: decided before the copy to host memory, so that a rank waits for a copy of what it writes, and no more."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.train.blocks import Block

Key = tuple[str, tuple[int, ...]]  # a tensor's name, and where in it the block begins


class Shares:
    """This rank's share. `group`: of all processes; None: of one, or torch.distributed.checkpoint decides later."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.held: dict[Key, int] = {}  # by all that is decided, in bytes
        self.mine: set[str] = set()

    def of(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of what this rank holds that which it writes. All processes call it together; it is decided anew where what
        one of them holds has changed, such as by an optimizer's first step."""
        if self.group is None:
            return tensors
        held = {_key(name, tensor): _bytes(tensor) for name, tensor in tensors.items() if not _is_empty(tensor)}
        changed = torch.tensor(float(held != self.held))
        dist.all_reduce(changed, group=self.group)
        if changed:
            self.held, self.mine = held, self._decide(held)
        return {name: tensor for name, tensor in tensors.items() if name in self.mine}

    def _decide(self, held: dict[Key, int]) -> set[str]:
        """By the first process, for all."""
        leads = dist.get_rank() == 0
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.gather_object(held, everyone if leads else None, group=self.group)
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, writers(everyone) if leads else None, group=self.group)
        found: set[str] = mine[0]
        return found


def writers(everyone: list[dict[Key, int]]) -> list[set[str]]:
    """By rank the names of what it writes: each block once, and each rank about as many bytes. `everyone`: by rank what
    it holds, in bytes; of a tensor one block at most."""
    holders: dict[Key, list[int]] = {}
    for rank, held in enumerate(everyone):
        for key in held:
            holders.setdefault(key, []).append(rank)
    written, found = [0] * len(everyone), [set[str]() for _ in everyone]

    def order(key: Key) -> tuple[bool, int]:
        """What only one can write comes first, then what is large."""
        return len(holders[key]) > 1, -everyone[holders[key][0]][key]

    for key in sorted(holders, key=order):
        rank = min(holders[key], key=lambda rank: written[rank])
        written[rank] += everyone[rank][key]
        found[rank].add(key[0])
    return found


def _is_empty(tensor: Tensor) -> bool:
    """Whether nothing of a cut tensor is here: then there is nothing to write. A tensor without elements is written."""
    return isinstance(tensor, Block) and not tensor.held.numel()


def _key(name: str, tensor: Tensor) -> Key:
    return name, tensor.part.start if isinstance(tensor, Block) else (0,) * tensor.dim()


def _bytes(tensor: Tensor) -> int:
    held = tensor.held if isinstance(tensor, Block) else tensor
    return held.numel() * held.element_size()
