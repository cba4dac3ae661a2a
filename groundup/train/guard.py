"""What becomes of bad steps: the host settles what the device judged (see judge.py).

The updates of a bad step and of all after it were skipped, so the state is that before it. All ranks read the same
values, so they decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from groundup.errors import BadStep
from groundup.recipe.sections import Recipe
from groundup.tasks.task import Task
from groundup.train.judge import Judge, Judged
from groundup.train.metrics import Metrics
from groundup.train.state import TrainState
from groundup.train.step import compute_gradients, update

_MOST_DOCUMENTS = 64  # in a record


class Guard:
    """`save`: writes a checkpoint. `go_back`: takes up the newest checkpoint; False where there is none. `tell`: says a
    line to the person watching."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        device: torch.device,
        metrics: Metrics,
        save: Callable[[TrainState], None],
        go_back: Callable[[TrainState], bool],
        tell: Callable[[str], None],
    ) -> None:
        self.task, self.recipe, self.device, self.metrics = task, recipe, device, metrics
        self.save, self.go_back, self.tell = save, go_back, tell
        self.in_a_row = 0
        self.passed = 0  # the end of the last bad step's samples: only good steps beyond it are progress

    def after_step(self, state: TrainState, wanted: bool) -> bool:
        """Whether the step stands, as far as is known. Known it is on a CPU, where reading is free, and where it is
        wanted; if not, the state has been settled and the loop goes on from it."""
        assert state.judge is not None
        if not state.judge.pending or not (wanted or self.device.type == "cpu"):
            return True
        return self.settle(state, state.judge)

    def settle(self, state: TrainState, judge: Judge) -> bool:
        """Whether all steps since the last settling stand. If not, the state goes back to before the first bad one and
        the recipe's policy is followed. Raises BadStep where that is to stop."""
        for judged in judge.read():
            if judged.bad:
                break
            if judged.start >= self.passed:
                self.in_a_row = 0
        else:
            return True
        state.step, state.samples = judged.step, judged.start
        judge.go_on()
        self.in_a_row += 1
        self.passed = judged.stop
        again = self._repeat(state, judged) if self.recipe.guard.repeat else None
        treated = again is None or again.bad
        if treated:
            self._record(state, judged, again)
        if self.in_a_row >= self.recipe.guard.limit:
            self._stop(state, judged, f"{self.in_a_row} bad steps in a row", "guard.limit higher")
        if treated:
            self._treat(state, judged)
        return False

    def _repeat(self, state: TrainState, judged: Judged) -> Judged:
        """The step again from the same state, its update left out. Another result is told."""
        loss, norm = compute_gradients(state, judged.stop, self.task, self.recipe, self.device)
        update(state, norm, self.recipe, 0.0, self.task, torch.ones((), device=self.device))
        values = torch.stack((loss, norm)).tolist()
        again = judged._replace(loss=values[0], norm=values[1])
        if not _same(judged, again):
            self.metrics.write(
                "suspicious",
                judged.step + 1,
                samples=[judged.start, judged.stop],
                first={"loss": _number(judged.loss), "grad_norm": _number(judged.norm)},
                again={"loss": _number(again.loss), "grad_norm": _number(again.norm)},
                reason=judged.reason,
            )
            self.tell(
                f"WARNING: step {judged.step + 1} was computed twice from the same state and the same samples, with "
                f"loss {judged.loss!r} and gradient norm {judged.norm!r}, then {again.loss!r} and {again.norm!r}. "
                "A device or memory may be faulty, or a kernel has a race. "
                + ("It is bad again." if again.bad else "The step is done again; nothing is dropped.")
            )
        return again

    def _record(self, state: TrainState, judged: Judged, again: Judged | None) -> None:
        documents = self.task.documents(judged.start, judged.stop) if state.model.leads else []
        self.metrics.write(
            "bad_step",
            judged.step + 1,
            samples=[judged.start, judged.stop],
            loss=judged.loss,
            grad_norm=judged.norm,
            loss_limit=judged.loss_limit,
            grad_norm_limit=judged.norm_limit,
            reason=judged.reason,
            verdict="not repeated" if again is None else "same again" if _same(judged, again) else "bad again",
            policy=self.recipe.guard.policy,
            documents=documents[:_MOST_DOCUMENTS],
            documents_count=len(documents),
        )

    def _treat(self, state: TrainState, judged: Judged) -> None:
        """As the recipe's policy says."""
        policy = self.recipe.guard.policy
        if policy == "stop":
            self._stop(state, judged, 'guard.policy is "stop"', 'guard.policy to "skip" or "rewind"')
        state.drop(judged.start, judged.stop)
        words = f"step {judged.step + 1}: {judged.reason}; samples [{judged.start}, {judged.stop}) are dropped"
        if policy == "rewind":
            gone = self.go_back(state)
            words += f", back to the checkpoint of step {state.step}" if gone else ", no checkpoint to go back to"
        self.tell(words)

    def _stop(self, state: TrainState, judged: Judged, why: str, otherwise: str) -> None:
        """Save what was before the step, and raise BadStep."""
        self.save(state)
        raise BadStep(
            f"{judged.reason} at step {judged.step + 1} (loss {judged.loss:.6g}, gradient norm {judged.norm:.6g}, "
            f"samples [{judged.start}, {judged.stop})); {why}. The checkpoint of step {state.step} holds the state "
            "before it. Look at its documents (bad_step in metrics.jsonl), lower optim.lr, or set " + otherwise
        )


def _same(one: Judged, other: Judged) -> bool:
    """To the last bit, NaN being equal to NaN."""
    pairs = ((one.loss, other.loss), (one.norm, other.norm))
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
