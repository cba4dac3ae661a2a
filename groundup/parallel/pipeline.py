"""Pipeline parallelism: a model cut into stages between its layers, run by torch's schedules.

A micro-batch's samples and labels are known to all ranks of a pipeline; only hidden states travel. Gradients are not
scaled by the schedule: the loss function divides by the counted tokens of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from groundup.parallel.mesh import Mesh
from groundup.parallel.stages import Stage
from groundup.recipe.parallel import Parallel

_SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved-1f1b": ScheduleInterleaved1F1B,
    "zero-bubble": ScheduleInterleavedZeroBubble,
    "zbv": ScheduleZBVZeroBubble,
}


class _Stage(PipelineStage):
    """torch's stage, which can also only score where two stages of a rank follow each other: there the schedule hands
    on gradients that do not exist."""

    def get_local_bwd_output(self, mb_index: int) -> Any:
        return super().get_local_bwd_output(mb_index) if self.has_backward else ()

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)


class Pipeline:
    """The stages of this rank and their schedule."""

    def __init__(
        self,
        stages: dict[int, Stage],
        parallel: Parallel,
        mesh: Mesh,
        microbatches: int,
        entering: list[list[tuple[int, ...]]],
    ) -> None:
        self.microbatches = microbatches
        self.last = next((module for module in stages.values() if module.last), None)
        self._loss: Callable[[Any, int], Tensor] | None = None

        def tensors(number: int) -> tuple[Tensor, ...]:
            shapes = entering[number] if number < len(entering) else [()] * len(entering[-1])
            return tuple(torch.empty(shape, device="meta").requires_grad_(number > 0) for shape in shapes)

        def stage(number: int, module: Stage) -> _Stage:
            return _Stage(
                module,
                number,
                parallel.stages,
                mesh.device,
                input_args=tensors(number),
                output_args=tensors(number + 1),
                group=mesh.group("pipeline"),
            )

        built = [stage(number, module) for number, module in stages.items()]
        kind = _SCHEDULES[parallel.schedule]
        single = parallel.schedule in ("gpipe", "1f1b")
        self._schedule = kind(
            built[0] if single else built, n_microbatches=microbatches, loss_fn=self._loss_of, scale_grads=False
        )

    def _loss_of(self, output: Any, number: Tensor) -> Tensor:
        assert self._loss is not None
        return self._loss(output, int(number))

    def run(self, arguments: dict[str, Tensor | None], loss: Callable[[Any, int], Tensor]) -> None:
        """Forward and backward over all micro-batches. arguments: the model's, of all micro-batches together; `loss` is
        asked on the rank of the last stage for each output and the number of its micro-batch."""
        self._loss = loss
        self._call(self._schedule.step, arguments)

    def score(self, arguments: dict[str, Tensor | None], loss: Callable[[Any, int], Tensor]) -> None:
        """Forward only; `loss` is asked likewise."""
        self._loss = loss
        with torch.no_grad():
            self._call(self._schedule.eval, arguments)

    def _call(self, method: Callable[..., Any], arguments: dict[str, Tensor | None]) -> None:
        given = {name: x for name, x in arguments.items() if x is not None}
        numbers = torch.arange(self.microbatches)
        # The first stage reads the samples from the arguments that all stages get, but must be called with something.
        method(torch.zeros(self.microbatches), target=numbers, return_outputs=False, **given)
