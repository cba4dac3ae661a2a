"""What processes of a pool do in tests of layouts."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from groundup.optim.precision import share_found_infinite
from groundup.parallel.layout import Layout
from groundup.parallel.mesh import Mesh
from groundup.parallel.model import ParallelModel

CPU = torch.device("cpu")


def alone_in_a_layout(layout: Layout) -> ParallelModel:
    """A model of one parameter, the same on all ranks."""
    module = torch.nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    return ParallelModel([module], [module], layout, Mesh(layout, CPU))


def stop_asked_on(rank: int) -> list[bool]:
    """What each of four calls answers where one rank asks to stop at the second."""
    model = alone_in_a_layout(Layout(replicate=dist.get_world_size()))
    answers = []
    for call in range(4):
        answers.append(model.any_before(call >= 1 and dist.get_rank() == rank))
        time.sleep(0.05 * dist.get_rank())
    model.settle()
    return answers


def weight_after_infinite_gradient_on(rank: int) -> tuple[list[float], float]:
    """The weight and the loss scale after a step in which one rank's gradient is infinite."""
    model = alone_in_a_layout(Layout(replicate=dist.get_world_size()))
    ((_, weight),) = model.named_parameters()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler.scale(weight.sum() if dist.get_rank() != rank else weight.sum() * torch.inf).backward()
    scaler.unscale_(optimizer)
    share_found_infinite(scaler, [optimizer], model.largest)
    scaler.step(optimizer)
    scaler.update()
    return weight.flatten().tolist(), scaler.get_scale()


def groups() -> dict[str, list[int]]:
    """The ranks along each dimension of a layout of eight processes, as this rank sees them."""
    mesh = Mesh(Layout(pipeline=2, shard=2, tensor=2, expert=2), CPU)
    dims = [("pipeline",), ("shard",), ("tensor",), ("fsdp",), ("expert",), ("expert_data",), ("shard", "tensor")]
    found = {" ".join(names): mesh.ranks(*names) for names in dims}
    total = mesh.sum_(torch.tensor([float(mesh.rank)]), "shard", "tensor")
    return {**found, "sum": [int(total)]}
