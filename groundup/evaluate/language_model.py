"""Loss of a decoder over a stream of text, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from groundup.data.batches.stream import TokenStream
from groundup.parallel.model import SAMPLES, ParallelModel
from groundup.tasks.task import Task


def evaluate_stream(
    model: ParallelModel,
    task: Task,
    stream: TokenStream,
    *,
    windows: int,
    rows: int,
    bytes_per_token: float,
    context: AbstractContextManager[object],
    device: torch.device,
    on_windows: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Score the first `windows` windows in the order of the text, each token once, with what came before in its window.

    `rows`: windows that a data rank scores at once. `bytes_per_token`: UTF-8 bytes of cleaned text (separators not
    counted) per counted label. Bits per byte is the summed loss, that of document ends included, over those bytes:
    loss / ln 2 / bytes_per_token.
    """
    was_training = model.train(False)
    total = torch.zeros((), dtype=torch.float64, device=device)
    counted = torch.zeros((), dtype=torch.float64)

    def add(module: Any, output: Any, part: Any) -> None:
        total.add_(task.cross_entropy(module, output, part))

    with context:
        for start in range(0, windows, rows * model.layout.data):
            stop = min(start + rows * model.layout.data, windows)
            batch = model.share(stream.in_order, start, stop, None if model.pipeline is None else rows)
            counted += batch.counted
            batch = batch.to(device)
            model.score(task.arguments(batch), batch, add)
            if on_windows is not None:
                on_windows(stop - start)
    model.train(was_training)
    model.sum_(total, "pipeline", "replicate", "shard", "context")
    counted = model.sum_(counted.to(device), *SAMPLES)
    loss = float(total) / float(counted)
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": loss / math.log(2) / bytes_per_token,
        "tokens": int(counted),
        "bytes": round(float(counted) * bytes_per_token),
    }
