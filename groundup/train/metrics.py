"""Where the numbers go: `metrics.jsonl` always, and trackers behind one small interface."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from groundup.console import say
from groundup.errors import UserError


class Tracker(Protocol):
    """Takes scalars and texts by step."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def text(self, step: int, name: str, text: str) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, run: Path, name: str, recipe: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, run: Path, name: str, recipe: dict[str, Any]) -> None:
        import wandb

        self.run = wandb.init(project="groundup", name=name, dir=str(run), config=recipe, id=None)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        import wandb

        self.run.log({name: wandb.Html(f"<pre>{text}</pre>")}, step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    def __init__(self, run: Path, name: str, recipe: dict[str, Any]) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment("groundup")
        mlflow.start_run(run_name=name)
        mlflow.log_dict(recipe, "recipe.json")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.mlflow.log_metrics(values, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self.mlflow.log_text(text, f"{name}/step-{step}.txt")

    def close(self) -> None:
        self.mlflow.end_run()


_TRACKERS: dict[str, Callable[[Path, str, dict[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def build_trackers(names: Sequence[str], run: Path, recipe: dict[str, Any]) -> list[Tracker]:
    trackers: list[Tracker] = []
    for name in names:
        try:
            trackers.append(_TRACKERS[name](run, recipe["name"], recipe))
        except ImportError:
            raise UserError(
                f"{name} is not installed", where="train.trackers", advice=f"pip install 'groundup[{name}]'"
            ) from None
    return trackers


class Metrics:
    """Writes each record to the file at once, so that a killed run keeps all it had. `check` is called before, and what
    it raises keeps a process from writing that has no right to any more.

    Neither a full disk nor a tracker that fails ends a training: records wait until there is room, the tracker is left.
    """

    def __init__(self, path: Path, trackers: list[Tracker], check: Callable[[], None] | None = None) -> None:
        self.path, self.check = path, check
        self.file = path.open("ab", buffering=0)
        self.waiting = b""  # what is not written yet
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self.waiting = b"\n"  # a kill tore the last line
        self.full = False
        self.trackers = trackers

    def write(self, kind: str, step: int, **values: Any) -> None:
        if self.check is not None:
            self.check()
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        record = json.dumps({"kind": kind, "step": step, **clean}, ensure_ascii=False)
        self.waiting += record.encode() + b"\n"
        self._flush()
        scalars = {f"{kind}/{k}": float(v) for k, v in values.items() if isinstance(v, int | float)}
        for tracker in list(self.trackers):
            with self._leaving(tracker):
                if "text" in values:
                    tracker.text(step, kind, f"{values.get('prompt', '')}{values['text']}")
                elif scalars:
                    tracker.scalars(step, scalars)

    def _flush(self) -> None:
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
            self.full = False
        except OSError as error:
            if not self.full:
                say(f"{self.path} can't be written, and training goes on; records wait for room: {error.strerror}")
            self.full = True

    @contextmanager
    def _leaving(self, tracker: Tracker) -> Iterator[None]:
        """Whatever a tracker's library raises, training goes on without it."""
        try:
            yield
        except Exception as error:
            self.trackers.remove(tracker)
            say(f"{type(tracker).__name__} fails, and training goes on without it: {type(error).__name__}: {error}")

    def close(self) -> None:
        self._flush()
        if self.waiting:
            lost = self.waiting.count(b"\n")
            say(f"{self.path}: {lost} records could not be written")
        self.file.close()
        for tracker in list(self.trackers):
            with self._leaving(tracker):
                tracker.close()
