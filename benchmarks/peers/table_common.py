"""What the peers of the table benchmark share: command line, prepared rows and report.

Imported by scripts that run in the peers' own environments, so it needs numpy only.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Options:
    """A peer's command line. All hyperparameters come from `table_training.py`."""

    data: Path
    widths: list[int]
    dropout: float
    batch: int
    lr: float
    epochs: int
    threads: int
    seed: int
    loader: str | None = None

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Features float32 [rows, features] and class ids int64 [rows] of train, validation or test."""
        features, labels = (np.load(self.data / name / f"{array}.npy") for array in ("features", "labels"))
        return features, labels


def options(description: str, loaders: tuple[str, ...] = ()) -> Options:
    """Read the command line. `loaders`: the choices of `--loader`, where the peer has any."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="the prepared run folder's data")
    parser.add_argument("--widths", type=int, nargs="+", required=True, help="of the hidden layers")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch", type=int, required=True, help="rows per step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seed", type=int, default=42, help="of weights, order and dropout")
    if loaders:
        parser.add_argument("--loader", choices=loaders, required=True, help="where the batches come from")
    return Options(**vars(parser.parse_args()))


def finish(**report: object) -> None:
    """Print the report, one JSON object on the last line."""
    print(json.dumps(report), flush=True)
