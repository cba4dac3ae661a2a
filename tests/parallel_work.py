"""What processes of a pool do in tests of layouts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler, share_found_infinite
from groundup.optim.schedules import build_schedule
from groundup.parallel.build import build_parallel
from groundup.parallel.mesh import Mesh
from groundup.parallel.model import ParallelModel, local
from groundup.parity.tasks import made_up
from groundup.recipe.layout import Layout, resolve
from groundup.recipe.load import load
from groundup.recipe.table import TableRecipe
from groundup.rundir import RunDir
from groundup.tasks.classification import Classification
from groundup.train.loop import train_step
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

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


def losses_in_bf16(settings: tuple[str, ...], instructions: bool) -> list[float]:
    """Loss and gradient norm of three steps of examples/tiny.toml, as on a CPU with bf16 instructions or without."""
    import groundup.optim.precision

    groundup.optim.precision.CPU_HAS_BF16 = instructions
    recipe = load(Path(__file__).parents[1] / "examples" / "tiny.toml", ('optim.precision="bf16"', *settings)).recipe
    task = made_up(recipe)
    model = build_parallel(task, recipe, resolve(recipe.parallel, dist.get_world_size()), CPU)
    model.train()
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    state = TrainState(model, optimizers, gradient_scaler("bf16", CPU))
    found = []
    for _ in range(3):
        end = state.samples + recipe.samples_per_step
        loss, norm = compute_gradients(state, end, task, recipe, CPU)
        update(state, norm, recipe, 3e-4, task)
        state.samples = end
        found += [float(loss), float(norm)]
    return found


def loss_of_a_cut_vocabulary() -> tuple[float, float]:
    """The loss over 37 rows of a projection cut over the ranks, in many chunks; and its largest difference in loss and
    gradients from that over the whole, in this process."""
    from groundup.optim import losses
    from groundup.part import even_cut

    losses._CHUNK_BYTES["cpu"] = 4 * 20 * 9  # blocks of 10 and of 7 rows would give other chunks each
    vocab, ranks = 37, dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(100, 8, generator=generator).requires_grad_()
    weight = torch.randn(vocab, 8, generator=generator).requires_grad_()
    labels, counted = torch.randint(vocab, (100,), generator=generator), torch.ones(100)
    options = {"label_smoothing": 0.1, "z_loss": 0.01}
    whole, _ = losses.linear_cross_entropy(hidden, weight, labels, counted, **options)  # type: ignore[arg-type]
    expected = torch.autograd.grad(whole, (hidden, weight))
    start, stop = even_cut(vocab, ranks, dist.get_rank())
    mine = weight.detach()[start:stop].clone().requires_grad_()
    cut = losses.VocabularyCut(dist.distributed_c10d._get_default_group(), start, vocab)
    loss, _ = losses.linear_cross_entropy(hidden, mine, labels, counted, cut=cut, **options)  # type: ignore[arg-type]
    grad_hidden, grad_mine = torch.autograd.grad(loss, (hidden, mine))
    dist.all_reduce(grad_hidden)
    differences = [loss - whole, grad_hidden - expected[0], grad_mine - expected[1][start:stop]]
    return float(loss), max(float(x.abs().max()) for x in differences)


def last_step_of_a_table(
    run: str, settings: tuple[str, ...]
) -> tuple[list[int], float, float, dict[str, torch.Tensor]]:
    """The last step of a table's first epoch, from initial weights: places in the stream of the rows that this rank's
    loss was made of, the loss of the step, its gradient norm, and the weights after it that this rank holds."""
    recipe = load(Path(run) / "recipe.toml", settings).recipe
    assert isinstance(recipe, TableRecipe)
    task = Classification(recipe, RunDir(Path(run)))
    model = build_parallel(task, recipe, resolve(recipe.parallel, dist.get_world_size()), CPU)
    model.train()
    optimizers = build_optimizers(model.named_parameters(), recipe.optim, model.whole())
    rows = task.samples_per_epoch
    start = rows - rows % recipe.train.batch_rows
    state = TrainState(model, optimizers, gradient_scaler("fp32", CPU), samples=start)
    trained: list[int] = []
    loss_of = task.loss

    def loss(module: Any, output: torch.Tensor, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        trained.extend(batch.positions_B[batch.weights_B > 0].tolist())
        return loss_of(module, output, batch)

    task.loss = loss  # type: ignore[method-assign]
    schedule = build_schedule(recipe.optim, 100, recipe.pace(rows))
    result = train_step(state, rows, task, recipe, schedule, CPU)
    weights = {name: local(parameter).detach().clone() for name, parameter in model.named_parameters()}
    return trained, float(result.loss), float(result.grad_norm), weights


def best_so_far(known: list[float], value: float) -> tuple[bool, float]:
    """Whether a validation's loss is the best so far where each rank knows another best, and the best then."""
    state = TrainState(alone_in_a_layout(Layout(replicate=dist.get_world_size())), [], gradient_scaler("fp32", CPU))
    state.step, state.best = 7, {"step": 3, "metric": "loss", "value": known[dist.get_rank()]}
    improved = state.improved("loss", {"loss": value})
    return improved, state.best["value"]
