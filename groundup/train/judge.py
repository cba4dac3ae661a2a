"""Which steps are bad, judged on the device: nobody waits for the answer, and a bad step changes nothing.

A step is bad where its loss or gradient norm is not finite, or is a spike: above median + spike x max(1.4826 x MAD, 1%
of |median|) of the last good steps, the median absolute deviation (MAD) scaled to the standard deviation of a normal
distribution (Rousseeuw and Croux, 1993, "Alternatives to the median absolute deviation"). Of an even number of values
the median is the lower middle one. Once a step is bad, it and all after it are skipped until the host has settled it.

Shapes: W steps that the medians are over, W1 one more; 2 the loss and the gradient norm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FEWEST = 16  # good steps before spikes are judged
_FLOOR = 0.01  # of the median: where the last steps hardly differ, noise is no spike
_NORMAL = 1.4826  # standard deviations of a normal distribution per MAD


class Judged(NamedTuple):
    """A step as the host gets to know it: the number of steps before it, samples [start, stop), values, limits
    that make a spike (infinite where none is judged), and `scaled` as in Judge."""

    step: int
    start: int
    stop: int
    loss: float
    norm: float
    loss_limit: float
    norm_limit: float
    scaled: bool

    @property
    def bad(self) -> bool:
        """The device's verdict, from the same numbers."""
        return bool(self.reason)

    @property
    def reason(self) -> str:
        """Why values like these are bad; empty where they are not."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        if not math.isfinite(self.norm):
            return "" if self.scaled else f"the gradient norm is {self.norm}"
        if self.loss > self.loss_limit:
            return f"the loss is {self.loss:.6g}, above {self.loss_limit:.6g}"
        if self.norm > self.norm_limit:
            return f"the gradient norm is {self.norm:.6g}, above {self.norm_limit:.6g}"
        return ""


class Judge:
    """spike: how many robust deviations make one, None: nothing is a spike. window: W. scaled: gradients that are not
    finite are the business of an fp16 loss scale, which skips the step and gets lower."""

    def __init__(self, spike: float | None, window: int, scaled: bool, device: torch.device) -> None:
        self.spike, self.scaled = spike, scaled
        self._infinite_2 = torch.full((2,), torch.inf, device=device)
        self._window_2W = torch.full((2, window), torch.inf, device=device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._places_W = torch.arange(window, device=device)
        self._middle_W1 = (torch.arange(window + 1, device=device) - 1).clamp(min=0) // 2  # by the number of values
        self._one = torch.ones((), device=device)
        self.skip = torch.zeros((), device=device)
        self._known: list[Judged] = []  # by the host already
        self._steps: list[tuple[int, int, int]] = []
        self._values: list[Tensor] = []

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it, the same on all ranks."""
        if self.spike is None:
            return {}
        return {"losses": self._window_2W[0], "norms": self._window_2W[1], "count": self._count}

    def forget(self) -> None:
        """Begin with no steps to compare with."""
        self._window_2W.fill_(torch.inf)
        self._count.zero_()

    @torch.no_grad()
    def judge(self, loss: Tensor, norm: Tensor, step: int, start: int, stop: int) -> Tensor:
        """1 where the update must be skipped, else 0 (fp32 scalar). The values must be the same on all ranks."""
        if self.spike is None and self.skip.device.type == "cpu":
            # Reading is free there, and every operation counts beside a small model's step.
            judged = Judged(step, start, stop, float(loss), float(norm), math.inf, math.inf, self.scaled)
            self._known.append(judged)
            self.skip = self._one if judged.bad else self.skip
            return self.skip
        value_2 = torch.stack((loss, norm))
        # What is not finite has no difference from itself.
        unlike = loss - loss if self.scaled else (value_2 - value_2).sum()
        skip = torch.where(unlike == 0, self.skip, self._one)
        self._steps.append((step, start, stop))
        limit_2 = self._infinite_2
        if self.spike is not None:
            limit_2, finite_2 = self._limits(self.spike), value_2.isfinite()
            skip = torch.where(((value_2 > limit_2) & finite_2).any(), self._one, skip)
            here_W = (self._places_W == self._count % len(self._places_W)) & finite_2.all() & (skip == 0)
            self._window_2W.copy_(torch.where(here_W, value_2[:, None], self._window_2W))
            self._count += here_W.any()
        self._values.append(torch.cat((value_2, limit_2)))
        self.skip = skip
        return skip

    def _limits(self, spike: float) -> Tensor:
        """Of loss and norm; infinite while there are too few good steps."""
        middle_1 = self._middle_W1.index_select(0, self._count.clamp(max=len(self._places_W)))
        # Infinity, where there is no value yet, is sorted behind all numbers.
        median_21 = self._window_2W.sort().values.index_select(1, middle_1)
        deviation_21 = (self._window_2W - median_21).abs().sort().values.index_select(1, middle_1)
        spread_21 = torch.maximum(_NORMAL * deviation_21, _FLOOR * median_21.abs())
        return torch.where(self._count < FEWEST, torch.inf, (median_21 + spike * spread_21)[:, 0])

    @property
    def pending(self) -> bool:
        """Whether steps have been judged that the host does not know of."""
        return bool(self._known or self._steps)

    def read(self) -> list[Judged]:
        """The steps judged since the last reading, in one transfer."""
        found, self._known = self._known, []
        rows = torch.stack(self._values).tolist() if self._values else []
        for step, (loss, norm, loss_limit, norm_limit) in zip(self._steps, rows, strict=True):
            found.append(Judged(*step, loss, norm, loss_limit, norm_limit, self.scaled))
        self._steps, self._values = [], []
        return found

    def go_on(self) -> None:
        """Skip no more: the bad step is settled."""
        self.skip = torch.zeros_like(self.skip)
