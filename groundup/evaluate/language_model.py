"""Loss of a decoder over a stream of text, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from groundup.data.stream import TokenStream
from groundup.models.decoder import Decoder
from groundup.optim.losses import linear_cross_entropy


@torch.no_grad()
def evaluate_stream(
    model: Decoder,
    stream: TokenStream,
    *,
    windows: int,
    micro_batch: int,
    bytes_per_token: float,
    context: AbstractContextManager[object],
    device: torch.device,
    on_windows: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Score the first `windows` windows in the order of the text, each token once, with what came before in its window.

    `bytes_per_token`: UTF-8 bytes of cleaned text (separators not counted) per counted label. Bits per byte is the
    summed loss, that of document ends included, over those bytes: loss / ln 2 / bytes_per_token.
    """
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    counted = 0.0
    with context:
        for start in range(0, windows, micro_batch):
            batch = stream.in_order(start, min(start + micro_batch, windows))
            counted += batch.counted
            batch = batch.to(device)
            hidden = model(batch.tokens_BL, documents_BL=batch.documents_BL)
            total += linear_cross_entropy(
                hidden.x_BLD.flatten(0, 1), model.output_weight, batch.labels_BL.flatten(), batch.weights_BL.flatten()
            )
            if on_windows is not None:
                on_windows(len(batch))
    model.train(was_training)
    loss = float(total) / counted
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": loss / math.log(2) / bytes_per_token,
        "tokens": int(counted),
        "bytes": round(counted * bytes_per_token),
    }
