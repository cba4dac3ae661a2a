"""What the loop, evaluation and export know of a task. `Any` stands for the task's own model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from groundup.data.batch import Batch


class Task(Protocol):
    @property
    def samples_per_epoch(self) -> int: ...

    @property
    def length(self) -> int:
        """Tokens per sample."""

    @property
    def flops_per_sample(self) -> float:
        """Floating-point operations of training on one sample."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be taken up."""

    def build(self, device: torch.device) -> Any:
        """The model with its initial weights."""

    def batch(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) of the training stream, on the host."""

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """(what is minimised, what is displayed), fp32 scalars, both sums over what counts in the batch."""

    def after_step(self, model: Any) -> None:
        """What the model does once per optimizer step."""

    def validate(
        self,
        model: Any,
        device: torch.device,
        max_tokens: int | None = None,
        on_windows: Callable[[int], None] | None = None,
    ) -> dict[str, float]:
        """Metrics on the validation part, or on about its first `max_tokens`."""

    def sample(self, model: Any, device: torch.device) -> list[dict[str, str]]:
        """What the model makes of the recipe's prompts."""
