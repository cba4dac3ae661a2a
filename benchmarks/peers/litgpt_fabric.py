"""Training speed of litgpt's model in a Lightning Fabric loop on the benchmark's Llama shape.

The loop takes the steps of litgpt's own pre-training, without validation, logs and checkpoints.
Needs torch, litgpt and lightning; `training_speed.py` runs it in an environment of its own.
"""

from __future__ import annotations

from importlib.metadata import version

import common
import numpy as np
import torch
from lightning.fabric import Fabric
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy, num_parameters


def main() -> None:
    options = common.options(__doc__)
    precision = {"fp32": "32-true", "bf16": "bf16-mixed"}[options.precision]
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    config = Config(
        name="benchmark",
        block_size=common.SEQUENCE,
        vocab_size=common.VOCABULARY,
        padded_vocab_size=common.VOCABULARY,
        n_layer=common.LAYERS,
        n_head=common.HEADS,
        n_query_groups=common.HEADS,
        n_embd=common.WIDTH,
        intermediate_size=common.FFN,
        mlp_class_name="LLaMAMLP",
        norm_class_name="RMSNorm",
        norm_eps=common.NORM_EPS,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config)
    model.apply(model._init_weights)
    parameters = num_parameters(model)
    if options.compile:
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=common.LEARNING_RATE,
        betas=common.BETAS,
        weight_decay=common.WEIGHT_DECAY,
        fused=True,
    )
    optimizer = fabric.setup_optimizers(optimizer)

    windows = common.windows(options.tokens)
    order = np.random.default_rng(common.SEED).permutation(len(windows))
    clock = common.Clock(options.warmup)
    clock.tick()
    for step in range(options.all_steps):
        losses = []
        for part in range(common.ACCUMULATION):
            start = (step * common.ACCUMULATION + part) * common.MICRO_BATCH
            rows = np.take(order, range(start, start + common.MICRO_BATCH), mode="wrap")
            ids_BS = torch.from_numpy(windows[rows].astype(np.int64))
            with fabric.no_backward_sync(model, enabled=part < common.ACCUMULATION - 1):
                logits_BTV = model(ids_BS[:, :-1].contiguous())
                loss = chunked_cross_entropy(logits_BTV, ids_BS[:, 1:].contiguous())
                fabric.backward(loss / common.ACCUMULATION)
            losses.append(loss.item())
        fabric.clip_gradients(model, optimizer, max_norm=common.CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(sum(losses) / len(losses))
    common.finish(clock, parameters, litgpt=version("litgpt"), lightning=version("lightning"))


if __name__ == "__main__":
    main()
