"""What the loop, evaluation and export know of a task. `Any` stands for the task's own model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groundup.data.batches.samples import Samples
from groundup.parallel.model import ParallelModel


class Task(Protocol):
    @property
    def unit(self) -> str:
        """What is counted for speed: tokens or rows."""

    @property
    def units_per_sample(self) -> int: ...

    @property
    def samples_per_epoch(self) -> int: ...

    @property
    def flops_per_sample(self) -> float:
        """Floating-point operations of training on one sample."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be taken up."""

    def skeleton(self) -> Any:
        """The model without memory, to be cut before it gets any."""

    def build(self, device: torch.device) -> Any:
        """The whole model with its initial weights."""

    def layers(self, model: Any) -> nn.ModuleList:
        """The parts of the model that are compiled, sharded and computed again one by one, each named by its number in
        the whole model."""

    def batch(self, start: int, stop: int) -> Samples:
        """Samples [start, stop) of the training stream, on the host."""

    def arguments(self, batch: Any) -> dict[str, Tensor | None]:
        """What the model's forward pass takes of a batch."""

    def loss(self, model: Any, output: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(what is minimised, what is displayed) of the model's output, fp32 scalars, both sums over what counts in the
        batch."""

    def after_step(self, model: Any, sum_over_tokens: Callable[[Tensor], Tensor], skip: Tensor | None = None) -> None:
        """What the model does once per optimizer step. `sum_over_tokens` sums in place over ranks with other tokens.
        Where `skip` is 1 (fp32 scalar on the device) it must change nothing that a checkpoint holds."""

    def documents(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Where samples [start, stop) of the training stream come from, one entry per sample."""

    def origins(self, start: int, stop: int) -> list[dict[str, Any]]:
        """The documents or rows of samples [start, stop): sample, id, source, file, offset or row there."""

    def cross_entropy(self, model: Any, output: Any, batch: Any) -> Tensor:
        """Of the model's output, summed over what counts in the batch: what quality is measured by."""

    def validate(self, model: ParallelModel, device: torch.device) -> dict[str, float]:
        """Metrics on the validation part, or on as much of it as the recipe grants a validation on the way."""

    def evaluate(self, model: ParallelModel, device: torch.device, advance: Callable[[int], None]) -> dict[str, Any]:
        """All metrics on the whole part that the last word is about; `advance` is told samples done."""

    @property
    def evaluation_samples(self) -> int: ...

    def describe(self, metrics: dict[str, Any]) -> str:
        """The metrics in words."""

    def sample(self, model: Any, device: torch.device) -> list[dict[str, str]]:
        """What the model makes of the recipe's prompts; nothing where it makes no text."""
