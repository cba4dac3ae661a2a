"""A model in a layout: this rank's share of it, and the sums over ranks that make its numbers the whole model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ReduceOp
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from groundup import heartbeat
from groundup.data.batches.samples import Samples
from groundup.optim.muon import Whole
from groundup.parallel.collectives import agreed, gather_for_all
from groundup.parallel.cut import Cuts
from groundup.parallel.mesh import Mesh
from groundup.part import Part
from groundup.recipe.layout import Layout

if TYPE_CHECKING:
    from groundup.parallel.pipeline import Pipeline

S = TypeVar("S", bound=Samples)
T = TypeVar("T")

SAMPLES = ("replicate", "shard")  # dimensions along which samples differ
TOKENS = ("replicate", "shard", "context")  # ... and tokens


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, as a plain one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass
class ParallelModel:
    """`chunks`: the whole model, or this rank's stages of it. `roots`: those, or modules around them, that FSDP was
    applied to. `mesh`: None in a single process."""

    chunks: list[nn.Module]
    roots: list[nn.Module] = field(default_factory=list)
    layout: Layout = field(default_factory=Layout)
    mesh: Mesh | None = None
    cuts: Cuts = field(default_factory=Cuts)
    pipeline: Pipeline | None = None
    tied_ranks: list[int] = field(default_factory=list)  # global ranks that hold a copy of the tied embedding
    _asked: tuple[dist.Work, Tensor] | None = None
    _copies_P: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """The model where it is not cut into stages."""
        (module,) = self.chunks
        return module

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters by global name, each once."""
        seen = set()
        for chunk in self.chunks:
            for name, parameter in chunk.named_parameters():
                if name not in seen:
                    seen.add(name)
                    yield name, parameter

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers that belong into a checkpoint; the same on all ranks that hold them."""
        for chunk in self.chunks:
            for owner_name, owner in chunk.named_modules():
                for key, buffer in owner.named_buffers(recurse=False):
                    if key not in owner._non_persistent_buffers_set:
                        yield f"{owner_name}.{key}", buffer

    def part(self, name: str, parameter: Tensor) -> Part:
        """Which block of the global parameter this rank holds."""
        part = self.cuts.parts.get(name) or Part.whole(tuple(parameter.shape))
        if isinstance(parameter, DTensor):
            sizes, offsets = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            for dim, (size, offset) in enumerate(zip(sizes, offsets, strict=True)):
                offset = min(offset, part.size[dim])
                part = part.cut(dim, offset, offset + size)
        return part

    def second_copies(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """(first, second) of parameters that two stages of this rank hold: a tied embedding under "zbv"."""
        if len(self.chunks) == 1:
            return []
        first = dict(self.named_parameters())
        every = ((n, p) for chunk in self.chunks for n, p in chunk.named_parameters())
        return [(first[name], parameter) for name, parameter in every if parameter is not first[name]]

    @torch.no_grad()
    def renew_copies(self) -> None:
        """After weights changed: second copies on this rank follow the first."""
        for first, second in self.second_copies():
            local(second).copy_(local(first))

    def reshard(self) -> None:
        """Give back what forward passes without a backward one have gathered, so that the parameters are the shards."""
        for root in self.roots:
            for module in root.modules():  # resharding one leaves those within it
                if isinstance(module, FSDPModule):
                    module.reshard()

    def parameter_count(self) -> int:
        """Of the whole model."""
        held = [math.prod(self.part(n, p).size) / self.copies(n, p) for n, p in self.named_parameters()]
        return round(float(self.sum_all(torch.tensor(sum(held), dtype=torch.float64))))

    def copies(self, name: str, parameter: Tensor) -> int:
        """On how many ranks each element of the parameter is held."""
        if self.mesh is None:
            return 1
        blocks = self.mesh.size(*dims) if (dims := self.cuts.dims.get(name, ())) else 1
        if isinstance(parameter, DTensor):
            for placement, size in zip(parameter.placements, parameter.device_mesh.shape, strict=True):
                blocks *= size if isinstance(placement, Shard) else 1
        holders = len(self.tied_ranks) if name == "embedding.weight" and self.tied_ranks else 1
        return self.layout.world // self.layout.pipeline // blocks * holders

    @property
    def leads(self) -> bool:
        """Whether this rank speaks for all."""
        return self.mesh is None or self.mesh.rank == 0

    def share(self, fetch: Callable[[int, int], S], start: int, stop: int, rows: int | None = None) -> S:
        """This data rank's part of samples [start, stop): a contiguous one, of the same length on all ranks (or of
        `rows`). Ranks short of samples get fillers that weigh nothing."""
        if self.mesh is None:
            return fetch(start, stop)
        rows = rows or -(-(stop - start) // self.layout.data)
        rank = self.mesh.index("replicate") * self.layout.shard + self.mesh.index("shard")
        begin = min(start + rank * rows, stop)
        end = min(begin + rows, stop)
        if begin < end:
            return fetch(begin, end).padded(rows)
        return fetch(start, start + 1).padded(rows + 1).rows(1, rows + 1)

    @torch.no_grad()
    def score(
        self, arguments: dict[str, Tensor | None], batch: Samples, visit: Callable[[nn.Module, Any, Any], None]
    ) -> None:
        """Forward only, on the model's arguments made of a batch. Where outputs are made, `visit` is told the module,
        an output and its samples."""
        heartbeat.beat()
        if self.pipeline is None:
            visit(self.module, self.module(**arguments), batch)
            return
        pipeline, rows = self.pipeline, len(batch) // self.pipeline.microbatches

        def loss(output: Any, number: int) -> Tensor:
            assert pipeline.last is not None
            part = batch.rows(number * rows, (number + 1) * rows)
            visit(pipeline.last.model, pipeline.last.output(output), part)
            return torch.zeros(())

        pipeline.score(arguments, loss)

    def train(self, training: bool = True) -> bool:
        """Set the mode of all chunks; returns the mode before."""
        before = self.chunks[0].training
        for chunk in self.chunks:
            chunk.train(training)
        return before

    def agree(self, choose: Callable[[], T]) -> T:
        """What the first rank chooses, known to all."""
        return choose() if self.mesh is None else agreed(choose)

    def sum_(self, tensor: Tensor, *dims: str) -> Tensor:
        """Sum in place over the ranks along the dimensions."""
        return tensor if self.mesh is None else self.mesh.sum_(tensor, *dims)

    def sum_all(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks."""
        if self.mesh is None:
            return tensor
        tensor = tensor.to(self.mesh.device)
        dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Over all ranks."""
        if self.mesh is not None:
            dist.all_reduce(tensor, ReduceOp.MAX)
        return tensor

    def sum_over_tokens(self, tensor: Tensor) -> Tensor:
        """Sum in place over the ranks that see other tokens."""
        return self.sum_(tensor, *TOKENS, "tensor")

    def reduce_after_this(self, last: bool) -> None:
        """Told before each micro-batch: copies of a whole model reduce their gradients after the step's last one,
        shards after each, since a rank may have no room for whole gradients. In a pipeline torch's schedules decide:
        they keep a stage's whole gradients until its last micro-batch."""
        for root in self.roots:
            if isinstance(root, FSDPModule) and self.layout.shard * self.layout.context == 1:
                root.set_requires_gradient_sync(last)

    def any_before(self, flag: bool) -> bool:
        """Whether the flag was set on any rank when each called this the last time: the answer travels while the next
        step is computed, over the hosts, and nobody waits for it. Alone: whether it is set now."""
        if self.mesh is None:
            return flag
        answer = False
        if self._asked is not None:
            work, flags = self._asked
            work.wait()
            answer = bool(flags)
        flags = torch.tensor([float(flag)])
        self._asked = (dist.all_reduce(flags, async_op=True), flags)
        return answer

    def settle(self) -> None:
        """Wait for what is still on its way."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None

    def whole(self) -> Whole:
        """How Muon comes by whole matrices: shards are gathered, and so are the tensor ranks' blocks. Experts cut over
        ranks stay apart, since each is a matrix of its own."""
        names = {id(p): n for n, p in self.named_parameters()}

        def tensor_cut(parameter: Tensor) -> int | None:
            name = names[id(parameter)]
            if "tensor" not in self.cuts.dims.get(name, ()):
                return None
            part = self.cuts.parts[name]
            first = 1 if "expert" in self.cuts.dims[name] else 0
            return next(d for d in range(first, len(part.shape)) if part.size[d] != part.shape[d])

        def gather(parameter: Tensor, tensor: Tensor) -> Tensor:
            found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if (dim := tensor_cut(parameter)) is not None and self.mesh is not None:
                found = gather_for_all(found, self.mesh.group("tensor"), dim)
            return found

        def mine(parameter: Tensor, tensor: Tensor) -> Tensor:
            if (dim := tensor_cut(parameter)) is not None and self.mesh is not None:
                tensor = tensor.chunk(self.layout.tensor, dim)[self.mesh.index("tensor")]
            if not isinstance(parameter, DTensor):
                return tensor
            mesh, placements = parameter.device_mesh, parameter.placements
            sizes, offsets = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
            block = Part(tuple(tensor.shape), tuple(offsets), tuple(sizes)).of(tensor) if min(sizes) else tensor[:0]
            return DTensor.from_local(
                block.contiguous(), mesh, placements, shape=parameter.shape, stride=parameter.stride()
            )

        return Whole(gather, mine)

    @torch.no_grad()
    def reduce_gradients(self) -> None:
        """Sum what FSDP does not: gradients of parameters that the tensor ranks hold alike but use for other tokens or
        heads, and those of the two copies of a tied embedding."""
        if self.mesh is None:
            return
        named = dict(self.named_parameters())
        for first, second in self.second_copies():
            assert first.grad is not None
            assert second.grad is not None
            local(first.grad).add_(local(second.grad))
            second.grad = None
        if self.layout.tensor > 1:
            grads = [p.grad for n, p in named.items() if n in self.cuts.summed]
            _sum_flat(grads, self.mesh.group("tensor"), self.mesh.device)
        if len(self.tied_ranks) > 1 and "embedding.weight" in named:
            _sum_flat([named["embedding.weight"].grad], self.mesh.group_of(self.tied_ranks), self.mesh.device)

    @torch.no_grad()
    def gradient_norm(self, loss: Tensor) -> Tensor:
        """Euclidean norm of the whole model's gradient, an fp32 scalar: squares of every element once.

        `loss` (fp32 scalar) becomes in place the first rank's, or what is not finite on another, in the same
        collective: so that all ranks have both to the same bit.
        """
        named = [(n, p) for n, p in self.named_parameters() if p.grad is not None]
        norms = torch._foreach_norm([local(p.grad) for _, p in named if p.grad is not None])
        norm_P = torch.stack([norm.float() for norm in norms]).to(loss.device)
        if self.mesh is None:
            norm: Tensor = norm_P.norm()
            return norm
        if self._copies_P is None:
            self._copies_P = torch.tensor([float(self.copies(n, p)) for n, p in named], device=norm_P.device)
        total = (norm_P.square() / self._copies_P).sum()
        both = torch.stack((total, loss if self.leads else torch.where(loss.isfinite(), 0.0, loss)))
        dist.all_reduce(both)
        loss.copy_(both[1])
        return both[0].sqrt()


def _sum_flat(tensors: list[Tensor | None], group: dist.ProcessGroup, device: torch.device) -> None:
    """Sum tensors in place over a group, in one collective on the device."""
    held = [local(x) for x in tensors if x is not None]
    if not held:
        return
    flat = torch.cat([x.reshape(-1) for x in held]).to(device)
    dist.all_reduce(flat, group=group)
    for x, summed in zip(held, flat.split([x.numel() for x in held]), strict=True):
        x.copy_(summed.view_as(x))
