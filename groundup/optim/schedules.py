"""The learning rate as a function of samples consumed, so that it means the same on any number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from groundup.errors import UserError
from groundup.recipe.optim import Optim
from groundup.recipe.quantities import Duration, Pace

DEFAULT_DECAY = 0.2  # share of the run that warmup-stable-decay ends with


@dataclass(frozen=True)
class Schedule:
    """All lengths in samples. `decay` and `drop_every` are used by the schedules that have them."""

    optim: Optim
    total: int
    warmup: int
    decay: int
    drop_every: int

    def lr(self, samples: int) -> float:
        """Learning rate of the step that begins when `samples` samples are consumed."""
        return self.optim.lr * self.factor(samples)

    def factor(self, samples: int) -> float:
        if samples < self.warmup:
            # The first step of a warmup is not wasted on a rate of zero.
            return (samples + 1) / (self.warmup + 1)
        final, kind = self.optim.final_lr_fraction, self.optim.schedule
        done = min(1.0, (samples - self.warmup) / max(1, self.total - self.warmup))
        if kind == "constant":
            return 1.0
        if kind == "step":
            return float(self.optim.step_factor ** (samples // self.drop_every))
        if kind == "linear":
            return 1.0 - (1.0 - final) * done
        if kind == "cosine":
            return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))
        into_decay = (samples - (self.total - self.decay)) / max(1, self.decay)
        return 1.0 - (1.0 - final) * min(1.0, max(0.0, into_decay))


def build_schedule(optim: Optim, total_steps: int, pace: Pace) -> Schedule:
    """Raises UserError where warmup or decay turns out longer than the run."""
    for key, part in (("warmup", optim.warmup), ("decay", optim.decay)):
        if part is not None and pace.steps(part) > total_steps:
            raise UserError(
                f"{part} are {pace.steps(part)} steps, and the whole run has {total_steps}",
                where=f"optim.{key}",
                expected=f"at most {total_steps} steps",
            )

    def samples(duration: Duration | None, default: int = 0) -> int:
        return pace.samples(default if duration is None else pace.steps(duration))

    return Schedule(
        optim,
        total=pace.samples(total_steps),
        warmup=samples(optim.warmup),
        decay=samples(optim.decay, round(DEFAULT_DECAY * total_steps)),
        drop_every=samples(optim.step_every, total_steps),
    )
