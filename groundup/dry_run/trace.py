"""What a training step holds in memory and sends to other ranks, seen operator by operator; of real tensors as of fake
ones. Memory is the bytes asked for, without an allocator's rounding and gaps. Device memory used inside an operator (a
product's workspace, say) is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _resolve_process_group
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groundup.parallel.model import local

# By operator of torch.ops.c10d: the kind of collective, which argument is its whole buffer, and which the group.
_COLLECTIVES = {
    "_allgather_base_": ("all_gather", 0, 2),
    "allgather_": ("all_gather", 0, 2),
    "allgather_into_tensor_coalesced_": ("all_gather", 0, 2),
    "_reduce_scatter_base_": ("reduce_scatter", 1, 2),
    "reduce_scatter_": ("reduce_scatter", 1, 2),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1, 2),
    "allreduce_": ("all_reduce", 0, 1),
    "allreduce_coalesced_": ("all_reduce", 0, 1),
    "alltoall_base_": ("all_to_all", 1, 2),
    "alltoall_": ("all_to_all", 1, 2),
    "broadcast_": ("broadcast", 0, 1),
    "send": ("send", 0, 1),
    "recv_": ("recv", 0, 1),
}
# The same of torch.ops._c10d_functional; None: the result is the buffer. The group is the last argument.
_FUNCTIONAL: dict[str, tuple[str, int | None]] = {
    "all_gather_into_tensor": ("all_gather", None),
    "reduce_scatter_tensor": ("reduce_scatter", 0),
    "all_reduce": ("all_reduce", 0),
    "all_reduce_": ("all_reduce", 0),
    "all_to_all_single": ("all_to_all", 0),
    "broadcast": ("broadcast", 0),
}

_DEVICE = torch.ops.prim.device.default


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (local(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory that holds these tensors on this rank, padding included, each piece once."""
    found = {id(s): s for s in (local(tensor).untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in found.values())


@dataclass
class _Piece:
    """A storage that is alive. `born`: how many had been seen before it."""

    size: int
    born: int
    watch: weakref.ref[torch.UntypedStorage]


@dataclass(frozen=True)
class Collective:
    kind: str  # all_gather, reduce_scatter, all_reduce, all_to_all, broadcast, send or recv
    ranks: tuple[int, ...]  # of its group
    bytes: int  # of the gathered, or not yet scattered, buffer


class Trace(TorchDispatchMode):
    """While entered, sees every operator of this process. `held`: bytes now; `peak`: the most so far."""

    def __init__(self, present: Iterable[Tensor] = (), elsewhere: Iterable[Tensor] = ()) -> None:
        """present: tensors that are there already, and count. elsewhere: those that do not, such as what is in the
        host's memory where a GPU's is meant; they must outlive this."""
        super().__init__()
        self.held = self.peak = 0
        self.collectives: list[Collective] = []
        self._pieces: dict[int, _Piece] = {}
        self._born = self._born_at_peak = 0
        self._resize: Callable[..., Any] = torch.UntypedStorage.resize_
        self._elsewhere = {id(tensor.untyped_storage()) for tensor in elsewhere}
        for tensor in present:
            self._see(local(tensor))

    def held_at_peak(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of those of these tensors, all alive now, that were there when memory was at its peak."""
        ids = {id(local(tensor).untyped_storage()) for tensor in tensors}
        pieces = [self._pieces[i] for i in ids if i in self._pieces]
        return sum(piece.size for piece in pieces if piece.born <= self._born_at_peak)

    def __enter__(self) -> Self:
        trace, resize = self, self._resize

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            # FSDP frees and takes memory this way, past all operators.
            result = resize(storage, size)
            piece = trace._pieces.get(id(storage))
            if piece is not None:
                trace._add(storage.nbytes() - piece.size)
                piece.size = storage.nbytes()
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(kind, error, trace)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # a guard that costs more than the work here; nothing is compiled

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operator is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked more often than all else together
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # until they are cut down to this rank's tensors
        result = operator(*args, **(kwargs or {}))
        if operator.namespace in ("c10d", "_c10d_functional"):
            self._note(operator, args, result)
        for tensor in _tensors(result):
            self._see(tensor)
        return result

    def _note(self, operator: Any, args: tuple[Any, ...], result: Any) -> None:
        name = operator.__name__.split(".")[0]
        if operator.namespace == "c10d" and name in _COLLECTIVES:
            kind, buffer, group = _COLLECTIVES[name]
            tensors, ranks = _tensors(args[buffer]), dist.ProcessGroup.unbox(args[group])
        elif name in _FUNCTIONAL:
            kind, place = _FUNCTIONAL[name]
            tensors = _tensors(result if place is None else args[place])
            ranks = _resolve_process_group(args[-1])
        else:
            return
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.collectives.append(Collective(kind, tuple(dist.get_process_group_ranks(ranks)), size))

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._pieces or key in self._elsewhere:
            return
        pieces, trace = self._pieces, weakref.ref(self)

        def gone(_: Any) -> None:
            piece = pieces.pop(key, None)
            owner = trace()
            if owner is not None and piece is not None:
                owner.held -= piece.size

        self._born += 1
        pieces[key] = _Piece(storage.nbytes(), self._born, weakref.ref(storage, gone))
        self._add(storage.nbytes())

    def _add(self, size: int) -> None:
        self.held += size
        if self.held > self.peak:
            self.peak, self._born_at_peak = self.held, self._born
