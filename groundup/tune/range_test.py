"""The learning-rate range test: a short training while the learning rate rises over many orders of magnitude.

Leslie N. Smith, "Cyclical Learning Rates for Training Neural Networks", https://arxiv.org/abs/1506.01186, section 3.3.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from groundup.console import Bar
from groundup.errors import Interrupted
from groundup.optim.optimizers import build_optimizers
from groundup.optim.precision import gradient_scaler
from groundup.parallel.model import ParallelModel
from groundup.recipe.sections import Recipe
from groundup.rundir import RunDir, read_json, write_atomically
from groundup.tasks.build import build_task
from groundup.train.device import set_up
from groundup.train.loop import train_step
from groundup.train.signals import StopRequest
from groundup.train.state import TrainState

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
SMOOTHING = 0.9  # decay of the moving average of the loss
DIVERGED = 4.0  # the test ends where the smoothed loss is this many times its minimum


@dataclass(frozen=True)
class FixedRate:
    """A schedule of one learning rate."""

    value: float

    def lr(self, samples: int) -> float:
        return self.value


class MovingAverage:
    """Exponential moving average without the bias to zero of its start (Adam, section 3)."""

    def __init__(self) -> None:
        self.sum, self.weight = 0.0, 0.0

    def add(self, value: float) -> float:
        """The average, this value included."""
        self.sum = SMOOTHING * self.sum + (1 - SMOOTHING) * value
        self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)
        return self.sum / self.weight


def smooth(losses: list[float]) -> list[float]:
    average = MovingAverage()
    return [average.add(loss) for loss in losses]


def steepest(rates: list[float], losses: list[float]) -> float | None:
    """The learning rate where the loss falls fastest per order of magnitude, up to the minimum of the smoothed loss;
    None where it never falls.

    A moving average lags behind by some nine steps, more than half an order of magnitude; the mean of the averages
    from both ends does not, so the slope is taken of that.
    """
    lowest = int(np.argmin(smooth(losses))) if losses else 0
    if lowest == 0:
        return None
    falling = losses[: lowest + 1]
    centred = [(a + b) / 2 for a, b in zip(smooth(falling), smooth(falling[::-1])[::-1], strict=True)]
    return rates[int(np.argmin(np.gradient(centred, np.log(rates[: lowest + 1]))))]


def range_test(recipe: Recipe, run: RunDir, inputs: str) -> dict[str, Any]:
    """Make `tune/range_test.json` over the data prepared in `run`, or read it where it was made from the same inputs.

    Its keys: lr, loss and smoothed, one value per step; suggestion, a learning rate or null; inputs. The weights are
    fresh and thrown away. Raises Interrupted where a signal asks to stop.
    """
    path = run.path / "tune" / "range_test.json"
    found: dict[str, Any] | None = read_json(path)
    if found is not None and found["inputs"] == inputs:
        return found
    rates, losses = _measure(recipe, run)
    curve = {"lr": rates, "loss": losses, "smoothed": smooth(losses)}
    result = {**curve, "suggestion": steepest(rates, losses), "inputs": inputs}
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(result))
    return result


def _measure(recipe: Recipe, run: RunDir) -> tuple[list[float], list[float]]:
    """(learning rates, losses) up to where the loss diverges; only finite losses."""
    device = set_up(recipe.train)
    task = build_task(recipe, run)
    pace = recipe.pace(task.samples_per_epoch)
    model = ParallelModel([task.build(device)])
    optimizers = build_optimizers(model.named_parameters(), recipe.optim)
    state = TrainState(model, optimizers, gradient_scaler(recipe.optim.precision, device))
    model.train()
    average, minimum = MovingAverage(), math.inf
    rates: list[float] = []
    losses: list[float] = []
    with Bar("range test", STEPS, "steps") as bar, StopRequest() as stop:
        for rate in np.geomspace(LOWEST, HIGHEST, STEPS).tolist():
            end = pace.step_end(state.samples)
            result = train_step(state, end, task, recipe, FixedRate(rate), device)
            state.step, state.samples = state.step + 1, end
            loss = float(result.loss)
            if not math.isfinite(loss):
                break
            rates.append(rate)
            losses.append(loss)
            smoothed = average.add(loss)
            minimum = min(minimum, smoothed)
            bar.advance(1, f"lr {rate:.1e}  loss {smoothed:.4f}")
            if smoothed > DIVERGED * minimum or stop:
                break
        if stop:
            raise Interrupted(f"stopped by {stop.asked} in the range test; the same command begins it again")
    return rates, losses
