"""What stands in for data and hardware in a dry run.

Samples have shapes and no values; their loss weights, and how many rows each expert gets, must be known to the host all
the same: the weights are taken as one in all, and the rows as shared out evenly.

Fake tensors are those of a CPU, since torch without CUDA can't differentiate fake tensors of a GPU. Where the model
asks whether it runs on a GPU, or torch's autocast would treat one otherwise, the answers are replaced by a GPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch._meta_registrations
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.pipelining._utils import InferenceMode
from torch.distributed.pipelining.schedules import _PipelineSchedule
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils._python_dispatch import _disable_current_modes

import groundup.optim.losses
import groundup.optim.precision
import groundup.parallel.build
import groundup.parallel.decoder
import groundup.parallel.model
from groundup.data.batches.batch import Batch
from groundup.data.batches.samples import Samples
from groundup.data.table.stream import Rows
from groundup.models import attention, decoder, perceptron
from groundup.models.feedforward import FeedForward
from groundup.models.norm import RmsNorm
from groundup.optim.precision import autocast_dtype
from groundup.parallel.model import ParallelModel
from groundup.parallel.pipeline import Pipeline
from groundup.recipe.language import LanguageRecipe
from groundup.recipe.table import TableRecipe
from groundup.tasks.classification import Classification
from groundup.tasks.language_model import LanguageModel


def _tensors(batch: Batch | Rows) -> list[Tensor]:
    return [x for x in vars(batch).values() if x is not None]


class ShapedText(LanguageModel):
    """Windows of packed documents."""

    def __init__(self, recipe: LanguageRecipe, rows: int) -> None:
        """rows: of the largest batch that will be asked for."""
        self.recipe, self.vocab_size, self.length = recipe, recipe.vocab_size, recipe.train.sequence_length
        ids_BL = torch.zeros(rows, self.length, dtype=torch.int64)
        self._batch = Batch(ids_BL, ids_BL.clone(), torch.ones(rows, self.length), ids_BL.clone())

    def host_tensors(self) -> list[Tensor]:
        """What holds the samples."""
        return _tensors(self._batch)

    def batch(self, start: int, stop: int) -> Batch:
        return self._batch.rows(0, stop - start)


class ShapedTable(Classification):
    def __init__(self, recipe: TableRecipe, features: int, classes: int, rows: int) -> None:
        self.recipe, self.features, self.labels = recipe, features, list(range(classes))
        self.weights_C = None if recipe.train.class_weights == "none" else torch.ones(classes)
        positions_B = torch.zeros(rows, dtype=torch.int64)
        self._batch = Rows(torch.zeros(rows, features), positions_B.clone(), torch.ones(rows), positions_B)

    def host_tensors(self) -> list[Tensor]:
        """What holds the samples."""
        return _tensors(self._batch)

    def batch(self, start: int, stop: int) -> Rows:
        return self._batch.rows(0, stop - start)


class _EvenRouting:
    """Rows per expert and per rank, as even as can be."""

    def __init__(self) -> None:
        self.rows = 0

    def count(self, expert_P: Tensor, minlength: int) -> Tensor:
        self.rows = expert_P.numel()
        return torch.empty(minlength, dtype=torch.int64)

    def lengths(self, count_RE: Tensor) -> list[int]:
        ranks = count_RE.shape[0]
        return [(self.rows + rank) // ranks for rank in range(ranks)]


class _FusedRmsNorm(torch.autograd.Function):
    """The memory of torch's fused kernel: input, weight and one scale per row are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight_D, x.new_empty((*x.shape[:-1], 1)))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        x, weight_D, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight_D)


def _grouped_mm(
    rows_PK: Tensor, matrices_EKF: Tensor, *_: Any, offs: Tensor, out_dtype: torch.dtype | None = None, **__: Any
) -> Tensor:
    """Shape of a product by groups of rows, or of columns (then one matrix per group), in any number format; torch's
    own shape function takes bf16 alone."""
    groups = () if matrices_EKF.ndim == 3 else (offs.shape[0],)
    return rows_PK.new_empty((*groups, rows_PK.shape[0], matrices_EKF.shape[-1]), dtype=out_dtype)


def _gpu_norm(self: RmsNorm, x: Tensor) -> Tensor:
    dtype = autocast_dtype(x)
    if torch.is_autocast_enabled("cpu"):
        x, weight_D = x.float(), self.weight.float()  # autocast runs torch's in fp32 on GPUs
    else:
        weight_D = self.weight.to(x.dtype)
    y: Tensor = _FusedRmsNorm.apply(x, weight_D)
    return y.to(dtype)


def _gpu_feed_forward(self: FeedForward, x_BLD: Tensor) -> Tensor:
    y_BLD: Tensor = self.down(F.silu(self.gate(x_BLD)) * self.up(x_BLD))
    return y_BLD


def _copied(kind: Any) -> Callable[[Samples, torch.device], Samples]:
    """Samples on a GPU are copies of the host's."""

    def to(self: Any, device: torch.device) -> Any:
        return kind(*(None if x is None else x.clone() for x in vars(self).values()))

    return to


def _loss_of_any(self: Pipeline, output: Any, number: Tensor) -> Tensor:
    """Micro-batches are alike, and fake numbers have no value."""
    assert self._loss is not None
    return self._loss(output, 0)


def _skip_handshake(self: Any, stages: list[Any], *_: Any) -> None:
    """Stages tell each other, before the first step, whether they know their shapes: here they do."""
    for stage in stages:
        stage._inference_mode = InferenceMode.STATIC


def _place_of_shard(*arguments: Any) -> Any:
    """Worked out by torch on small real tensors, which must not become fake."""
    with _disable_current_modes():
        return compute_local_shape_and_global_offset(*arguments)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def stand_ins(materialise: Callable[[Any, int, torch.device], None], gpu: bool) -> Iterator[None]:
    """While entered, `materialise` gives models their memory, in place of what gives them initial values too, and steps
    can run on fake tensors; `gpu`: as a GPU would."""
    routing = _EvenRouting()

    def materialise_chunks(model: ParallelModel, seed: int, device: torch.device, home: torch.device) -> None:
        for chunk in model.chunks:
            materialise(chunk, seed, device)

    changes: list[tuple[Any, str, Any]] = [
        (decoder, "materialise", materialise),
        (perceptron, "materialise", materialise),
        (groundup.parallel.build, "_materialise", materialise_chunks),
        (groundup.parallel.decoder, "_lengths", routing.lengths),
        (torch, "bincount", routing.count),
        (torch._meta_registrations, "_meta_grouped_mm_common", _grouped_mm),
        (groundup.parallel.model, "compute_local_shape_and_global_offset", _place_of_shard),
        (Pipeline, "_loss_of", _loss_of_any),
        (_PipelineSchedule, "_warmup_p2p", _skip_handshake),
        (Batch, "counted", 1.0),
        (Rows, "counted", 1.0),
    ]
    if gpu:
        chunk_bytes = groundup.optim.losses._CHUNK_BYTES
        changes += [
            (attention, "runs_in_blocks", lambda *_: False),
            (decoder, "runs_in_blocks", lambda *_: False),
            (RmsNorm, "forward", _gpu_norm),
            (FeedForward, "forward", _gpu_feed_forward),
            (groundup.optim.losses, "_CHUNK_BYTES", {"cpu": chunk_bytes["cuda"]}),
            (groundup.optim.precision, "CPU_HAS_BF16", True),
            (Batch, "to", _copied(Batch)),
            (Rows, "to", _copied(Rows)),
        ]
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(_replaced(owner, name, value))
        yield
