"""Everything that makes up a training in progress, and its way into a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.optim.optimizers import state_tensors
from groundup.parallel.model import ParallelModel
from groundup.train.blocks import block
from groundup.train.checkpoint import load, shapes
from groundup.train.judge import Judge
from groundup.train.manifest import Checkpoints, Manifest


@dataclass
class TrainState:
    """`samples`: samples consumed: with those dropped the whole state of the data stream and of the schedule."""

    model: ParallelModel
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    samples: int = 0
    seconds: float = 0.0  # of training, over all its sessions
    last_loss: float | None = None
    best: dict[str, Any] | None = None  # step, metric and value of the best validation so far
    saved: int | None = None  # the last step that was saved
    saved_best: dict[str, Any] | None = None  # as `best`, of those whose checkpoint is there
    facts: dict[str, Any] = field(default_factory=dict)
    judge: Judge | None = None  # of bad steps; without one none is
    dropped: list[tuple[int, int]] = field(default_factory=list)  # samples [start, stop) left out, in order

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and optimizer state by global name; of each what this rank holds."""
        self.model.reshard()
        found: dict[str, Tensor] = {f"model.{name}": buffer for name, buffer in self.model.named_buffers()}
        if self.judge is not None:
            found |= {f"guard.{name}": tensor for name, tensor in self.judge.tensors().items()}
        known = {id(p) for o in self.optimizers for group in o.param_groups for p in group["params"]}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and id(parameter) not in known:
                raise RuntimeError(f"{name} is not the optimizer's, so a checkpoint would lack its state")
            part = self.model.part(name, parameter)
            found[f"model.{name}"] = block(parameter.data, part)
            for key, value in state_tensors(parameter, self.optimizers):
                found[f"optim.{name}.{key}"] = block(value, part) if value.shape == parameter.shape else value
        return found

    def manifest_facts(self) -> dict[str, Any]:
        """All of the state that is no tensor, as JSON."""
        return {
            "samples_consumed": self.samples,
            "seconds": self.seconds,
            "last_loss": self.last_loss,
            "scaler": self.scaler.state_dict(),
            "best": self.best,
            "dropped": self.dropped,
            **self.facts,
        }

    def improved(self, metric: str, result: dict[str, float]) -> bool:
        """Whether a validation is the best so far, as the first rank knows it; it is then kept in mind.

        All ranks call it together. One may know sooner than another that the save of the best before has failed.
        """
        value = result[metric]
        sign = 1.0 if metric == "loss" else -1.0

        def better() -> bool:
            best = self.best
            return best is None or best["metric"] != metric or sign * value < sign * best["value"]

        if not self.model.agree(better):
            return False
        self.best = {"step": self.step, "metric": metric, "value": value}
        return True

    def load(
        self, checkpoints: Checkpoints, step: int, manifest: Manifest, group: dist.ProcessGroup | None = None
    ) -> None:
        """Take up a verified checkpoint. `group`: see checkpoint.patient_group."""
        held = shapes(checkpoints, step)
        self.make_optimizer_state(held)
        tensors = self.tensors()
        if self.judge is not None:
            self.judge.forget()
            for name in [f"guard.{name}" for name in self.judge.tensors()]:
                if name not in held or held[name].size != tensors[name].size():
                    del tensors[name]  # of a run without, or with another window
        load(checkpoints, step, tensors, group)
        self.model.renew_copies()
        self.step, self.samples = manifest["step"], manifest["samples_consumed"]
        self.saved = self.step
        for start, stop in manifest.get("dropped", ()):
            self.drop(start, stop)  # beside those dropped since, where training goes back
        self.seconds, self.last_loss, self.best = manifest["seconds"], manifest["last_loss"], manifest["best"]
        self.saved_best = self.best
        if self.scaler.is_enabled() and manifest["scaler"]:
            self.scaler.load_state_dict(manifest["scaler"])

    def drop(self, start: int, stop: int) -> None:
        """Leave samples [start, stop) out, from here on and in every checkpoint."""
        merged: list[tuple[int, int]] = []
        for first, end in sorted([*self.dropped, (start, stop)]):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((first, end))
        self.dropped = merged

    def make_optimizer_state(self, held: dict[str, Any]) -> None:
        """Empty tensors for the state that the checkpoint holds: optimizers make theirs at the first step only."""
        owner = {id(p): o for o in self.optimizers for g in o.param_groups for p in g["params"]}
        for name, parameter in self.model.named_parameters():
            prefix = f"optim.{name}."
            for key, entry in held.items():
                if key.startswith(prefix):
                    # Moments have the parameter's shape and placement; step counters are scalars.
                    scalar = len(entry.size) == 0
                    empty = (
                        torch.zeros((), dtype=entry.properties.dtype, device=parameter.device)
                        if scalar
                        else torch.zeros_like(parameter)
                    )
                    owner[id(parameter)].state[parameter][key.removeprefix(prefix)] = empty
