"""What both peers of the training-speed benchmark share: shape, hyperparameters, tokens, clock and report.

Imported by scripts that run in the peers' own environments, so it needs torch and numpy only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

LAYERS = 6
WIDTH = 384
HEADS = 6
FFN = 1024
VOCABULARY = 8192
SEQUENCE = 512
MICRO_BATCH = 8
ACCUMULATION = 2
TOKENS_PER_STEP = SEQUENCE * MICRO_BATCH * ACCUMULATION

NORM_EPS = 1e-5
INITIAL_STD = 0.02
LEARNING_RATE = 3e-4
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
SEED = 42


@dataclass
class Options:
    """A peer's command line."""

    precision: str
    compile: bool
    steps: int
    warmup: int
    threads: int
    tokens: Path | None

    @property
    def all_steps(self) -> int:
        return self.warmup + self.steps


def options(description: str) -> Options:
    """Read the command line, set torch's threads and seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--steps", type=int, default=10, help="timed optimizer steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the timed ones, at least 2")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--tokens", type=Path, help="file of uint16 token ids; default: random ids")
    parsed = parser.parse_args()
    if parsed.warmup < 2 or parsed.steps < 1:
        parser.error("--warmup must be at least 2 and --steps at least 1")
    torch.set_num_threads(parsed.threads)
    torch.manual_seed(SEED)
    return Options(**vars(parsed))


def windows(path: Path | None) -> np.ndarray:
    """Windows of SEQUENCE + 1 ids, [windows, SEQUENCE + 1], a view of the mapped file or of random ids.

    Neighbours share one id: the last target of one is the first input of the next.
    """
    if path is None:
        ids = np.random.default_rng(SEED).integers(VOCABULARY, size=2**20, dtype=np.uint16)
    else:
        ids = np.memmap(path, dtype=np.uint16, mode="r")
    if len(ids) <= SEQUENCE:
        sys.exit(f"{path}: {len(ids)} tokens are fewer than one window of {SEQUENCE + 1}")
    return np.lib.stride_tricks.sliding_window_view(ids, SEQUENCE + 1)[::SEQUENCE]


@dataclass
class Clock:
    """Time stamps of optimizer steps; call `tick` before the first step and after each one."""

    warmup: int
    stamps: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def tick(self, loss: float | None = None) -> None:
        """Record the time, and the step's mean loss in nats per token."""
        self.stamps.append(time.perf_counter())
        if loss is not None:
            self.losses.append(loss)

    def report(self) -> dict[str, float | int | list[float]]:
        """Speed by the median timed step, the process's peak resident memory, and the losses."""
        seconds = [b - a for a, b in itertools.pairwise(self.stamps)][self.warmup :]
        # Linux counts in KiB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return {
            "tokens_per_second": round(TOKENS_PER_STEP / statistics.median(seconds), 1),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1),
            "steps": len(seconds),
            "seconds_per_step": [round(s, 4) for s in seconds],
            "loss_first": round(self.losses[0], 4),
            "loss_last": round(self.losses[-1], 4),
        }


def machine() -> dict[str, object]:
    """What decides the speed of matrix products here: torch's version, and what the CPU can do in bf16."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    }


def finish(clock: Clock, parameters: int, **versions: str) -> None:
    """Print the report, one JSON object on the last line."""
    print(json.dumps(clock.report() | {"parameters": parameters} | machine() | versions), flush=True)
