"""What hangs on the loop: the log, actions at intervals, and saves in the background."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from groundup import heartbeat
from groundup.console import Bar, size, span
from groundup.errors import Superseded, UserError
from groundup.tasks.task import Task
from groundup.train.metrics import Metrics
from groundup.train.saver import Saved, Saver, as_user_error, reason
from groundup.train.state import TrainState
from groundup.train.step import StepResult


class Log:
    """A metrics record and a line every `every` steps, and the live line. Time spent in other hooks does not count."""

    def __init__(
        self, metrics: Metrics, bar: Bar, task: Task, every: int, total: int, total_samples: int, peak: float
    ) -> None:
        self.metrics, self.bar, self.task = metrics, bar, task
        self.every, self.total, self.total_samples, self.peak = every, total, total_samples, peak
        self.excluded = 0.0  # seconds of this interval that went to other hooks
        self.rates: list[float] = []

    def begin(self, state: TrainState) -> None:
        """Start the clock."""
        self.mark, self.excluded, self.samples = time.perf_counter(), 0.0, state.samples

    def exclude(self, seconds: float) -> None:
        self.excluded += seconds

    @property
    def units_per_second(self) -> float:
        """Median over the intervals, without the first, which warms up, where there are others."""
        rates = sorted(self.rates[1:] or self.rates)
        return rates[len(rates) // 2] if rates else 0.0

    def due(self, state: TrainState) -> bool:
        return state.step % self.every == 0 or state.samples >= self.total_samples

    def after_step(self, state: TrainState, result: StepResult | None) -> None:
        if result is None:
            return
        loss, norm = float(result.loss), float(result.grad_norm)
        now = time.perf_counter()
        seconds = now - self.mark - self.excluded
        samples, per_sample = state.samples - self.samples, self.task.units_per_sample
        rate = samples * per_sample / seconds
        flops = samples * self.task.flops_per_sample / seconds
        self.mark, self.excluded, self.samples = now, 0.0, state.samples
        self.rates.append(rate)
        state.seconds += seconds
        state.last_loss = loss
        self.metrics.write(
            "train",
            state.step,
            samples_consumed=state.samples,
            **{self.task.unit: state.samples * per_sample},
            seconds=round(state.seconds, 3),
            loss=loss,
            grad_norm=norm,
            lr=result.lr,
            **{f"{self.task.unit}_per_second": round(rate, 1)},
            flops_per_second=flops,
            peak_share=round(flops / self.peak, 4),
        )
        left = (self.total_samples - state.samples) * per_sample / rate
        line = (
            f"step {state.step}/{self.total}  loss {loss:.4f}  norm {norm:.2f}  lr {result.lr:.2e}  {size(rate)} "
            f"{self.task.unit}/s  {size(flops, 'FLOP/s')} ({flops / self.peak:.0%} of peak)  {span(left)} left"
        )
        self.bar.show(state.step, line)


class Every:
    """Calls `action` every `every` steps and at the end, off the log's clock."""

    def __init__(self, every: int, log: Log, action: Callable[[TrainState], None]) -> None:
        self.every, self.log, self.action = every, log, action

    def due(self, state: TrainState) -> bool:
        return state.step % self.every == 0 or state.samples >= self.log.total_samples

    def after_step(self, state: TrainState, result: StepResult | None) -> None:
        start = time.perf_counter()
        self.action(state)
        heartbeat.beat()
        self.log.exclude(time.perf_counter() - start)


class Save:
    """An action that saves. `poll` is one that tells when a save in the background is over. Training goes on without a
    checkpoint that could not be written; only the last one must not fail. `keep_every`: steps between checkpoints that
    are kept for good; `last`: samples at the end of the run, where nothing is left to do meanwhile."""

    def __init__(
        self, saver: Saver, metrics: Metrics, bar: Bar, background: bool, keep_every: int | None, last: int
    ) -> None:
        self.saver, self.metrics, self.bar, self.background = saver, metrics, bar, background
        self.keep_every, self.last = keep_every, last
        self.failure: Exception | None = None  # of the save that failed last
        self.best: dict[str, Any] | None = None  # as the save that is running knows it

    def __call__(self, state: TrainState) -> None:
        self._save(state, self.background and state.samples < self.last)

    def _save(self, state: TrainState, background: bool) -> None:
        self._tell(self.saver.finish(), state)
        if state.saved != state.step:
            state.saved = state.step
            facts = state.manifest_facts()
            self.best = state.best
            facts["keep"] = self.keep_every is not None and state.step % self.keep_every == 0
            self.saver.start(state.step, state.tensors(), facts, background=background)
            if not background:
                self._tell(self.saver.finish(), state)

    def poll(self, state: TrainState) -> None:
        self._tell(self.saver.poll(), state)

    def wait(self, state: TrainState) -> None:
        """Until nothing is written any more."""
        self._tell(self.saver.finish(), state)

    def finish(self, state: TrainState) -> None:
        """Have the state as it is now in a checkpoint. Raises UserError where the storage does not take it."""
        self._save(state, False)
        if state.saved != state.step:
            assert self.failure is not None
            raise self.failure

    def _tell(self, saved: Saved | None, state: TrainState) -> None:
        if saved is None:
            return
        place = self.saver.checkpoints.place(saved.step)
        if saved.error is None:
            state.saved_best = self.best
            self.metrics.write(
                "checkpoint", saved.step, stall_seconds=round(saved.stall, 4), seconds=round(saved.seconds, 4)
            )
            self.bar.write(f"step {saved.step}: checkpoint {place}")
            return
        why = reason(saved.error)
        if isinstance(why, UserError | Superseded) or not isinstance(why, Exception):
            raise why
        if state.saved == saved.step:
            state.saved = None
        if state.best is not None and state.best["step"] == saved.step:
            state.best = state.saved_best  # or the one before would be dropped for one that is not there
        self.failure = as_user_error(why, place) if isinstance(why, OSError) else why
        self.metrics.write("checkpoint_failed", saved.step, error=str(why))
        self.bar.write(f"step {saved.step}: {place} can't be written, and training goes on without it: {why}")
