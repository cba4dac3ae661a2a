"""What the loop, evaluation and export know of a task. `Any` stands for the task's own model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class Samples(Protocol):
    """A portion of samples with their labels."""

    def __len__(self) -> int: ...

    @property
    def counted(self) -> float:
        """Sum of the labels' weights; read on the host, before the samples go to a device."""

    def rows(self, start: int, stop: int) -> Self: ...

    def to(self, device: torch.device) -> Self: ...


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

    def build(self, device: torch.device) -> Any:
        """The model with its initial weights."""

    def blocks(self, model: Any) -> Iterable[nn.Module]:
        """The parts of the model that are compiled one by one."""

    def batch(self, start: int, stop: int) -> Samples:
        """Samples [start, stop) of the training stream, on the host."""

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(what is minimised, what is displayed), fp32 scalars, both sums over what counts in the batch."""

    def after_step(self, model: Any) -> None:
        """What the model does once per optimizer step."""

    def validate(self, model: Any, device: torch.device) -> dict[str, float]:
        """Metrics on the validation part, or on as much of it as the recipe grants a validation on the way."""

    def evaluate(self, model: Any, device: torch.device, advance: Callable[[int], None]) -> dict[str, Any]:
        """All metrics on the whole part that the last word is about; `advance` is told samples done."""

    @property
    def evaluation_samples(self) -> int: ...

    def describe(self, metrics: dict[str, Any]) -> str:
        """The metrics in words."""

    def sample(self, model: Any, device: torch.device) -> list[dict[str, str]]:
        """What the model makes of the recipe's prompts; nothing where it makes no text."""
