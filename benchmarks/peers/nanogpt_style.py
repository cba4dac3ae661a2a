"""A character-level GPT of the size that nanoGPT's README trains on a CPU, trained by the clock.

4 layers, 4 heads, width 128, context 64, learned positions, LayerNorm, GELU, no biases, tied embeddings, no
dropout; AdamW (0.9, 0.99), weight decay 0.1 on matrices, clipping at 1, fp32. The learning rate rises over
100 iterations to 1e-3 and falls to 1e-4 along a cosine of the *elapsed time*, so that the whole time is used
and the decay is complete.

Alphabet: the characters of both texts, so that no validation character is unknown.

Evaluation: the whole validation text, each character once. A window of 64 moves on by `--stride` characters
and only what is new is counted, so each character but the first few is predicted from more than 64 - stride
characters before it. The first of all is predicted from a newline, as if another document stood before it.

Needs torch only. The last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, CONTEXT = 4, 4, 128, 64
PEAK_RATE, FINAL_RATE, WARMUP_ITERATIONS = 1e-3, 1e-4, 100
EVALUATION_BATCH = 256

# B: samples, S: positions, H: heads, D: width, V: alphabet


class Block(nn.Module):
    """Attention and feed-forward part, each behind a LayerNorm and beside a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_norm = nn.LayerNorm(WIDTH, bias=False)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        batch, length, _ = x_BSD.shape
        qkv = self.qkv(self.attention_norm(x_BSD)).view(batch, length, 3, HEADS, WIDTH // HEADS)
        q_BHSd, k_BHSd, v_BHSd = qkv.permute(2, 0, 3, 1, 4)
        mixed_BHSd = functional.scaled_dot_product_attention(q_BHSd, k_BHSd, v_BHSd, is_causal=True)
        x_BSD = x_BSD + self.attention_out(mixed_BHSd.transpose(1, 2).reshape(batch, length, WIDTH))
        return x_BSD + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x_BSD))))


class CharacterGPT(nn.Module):
    def __init__(self, alphabet: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(alphabet, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # GPT-2: what is added to the residual path starts smaller, by the number of additions.
                residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Logits [B, S, V]."""
        x_BSD = self.characters(ids_BS) + self.positions.weight[: ids_BS.shape[1]]
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return functional.linear(self.norm(x_BSD), self.characters.weight)


def learning_rate(iteration: int, elapsed_fraction: float) -> float:
    decayed = FINAL_RATE + (PEAK_RATE - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, elapsed_fraction))) / 2
    return decayed * min(1.0, (iteration + 1) / WARMUP_ITERATIONS)


def train(model: CharacterGPT, ids_N: Tensor, seconds: float, batch: int) -> tuple[int, float, float]:
    """Train for `seconds` of wall time. Returns iterations, seconds, last loss in nats per character."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.99), fused=True)
    offsets_S = torch.arange(CONTEXT + 1)
    loss = torch.zeros(())
    iteration, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, elapsed / seconds)
        sample_BS = ids_N[torch.randint(len(ids_N) - CONTEXT, (batch, 1)) + offsets_S]
        logits_BSV = model(sample_BS[:, :-1])
        loss = functional.cross_entropy(logits_BSV.flatten(0, 1), sample_BS[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        iteration += 1
    return iteration, elapsed, loss.item()


@torch.no_grad()
def total_nats(model: CharacterGPT, ids_N: Tensor, before: int, stride: int) -> float:
    """Summed loss over all of ids [N], each predicted once; `before` is the character ahead of the first."""
    stream = torch.cat([torch.tensor([before]), ids_N])
    total = 0.0
    if len(ids_N) <= CONTEXT:
        losses = functional.cross_entropy(model(stream[None, :-1])[0], ids_N, reduction="sum")
        return losses.item()
    # The last window is moved back to end with the text, and counts only what none before it has.
    last = len(ids_N) - CONTEXT
    starts = torch.tensor([*range(0, last, stride), last])
    counted_from = torch.cat([torch.zeros(1, dtype=torch.long), starts[:-1] + CONTEXT - starts[1:]])
    offsets_S = torch.arange(CONTEXT)
    batches = zip(starts.split(EVALUATION_BATCH), counted_from.split(EVALUATION_BATCH), strict=True)
    for starts_B, from_B in batches:
        positions_BS = starts_B[:, None] + offsets_S
        logits_BSV = model(stream[positions_BS])
        targets_BS = stream[positions_BS + 1]
        losses_BS = functional.cross_entropy(logits_BSV.transpose(1, 2), targets_BS, reduction="none")
        total += losses_BS[offsets_S >= from_B[:, None]].double().sum().item()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="UTF-8 text")
    parser.add_argument("--validation", type=Path, required=True, help="UTF-8 text")
    parser.add_argument("--seconds", type=float, required=True, help="wall time of the training loop")
    parser.add_argument("--batch", type=int, default=12, help="samples per iteration")
    parser.add_argument("--stride", type=int, default=16, help="step of the evaluation, 1 to 32")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seed", type=int, default=1337, help="of weights and samples")
    options = parser.parse_args()
    if not 1 <= options.stride <= CONTEXT // 2:
        parser.error(f"--stride must be from 1 to {CONTEXT // 2}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    train_text = options.train.read_bytes().decode()
    validation_text = options.validation.read_bytes().decode()
    alphabet = sorted({"\n", *train_text, *validation_text})
    index = {character: i for i, character in enumerate(alphabet)}
    train_ids = torch.tensor([index[c] for c in train_text])
    validation_ids = torch.tensor([index[c] for c in validation_text])

    model = CharacterGPT(len(alphabet))
    iterations, seconds, last_loss = train(model, train_ids, options.seconds, options.batch)
    started = time.perf_counter()
    nats = total_nats(model, validation_ids, index["\n"], options.stride)
    size = len(validation_text.encode())
    report = {
        "bits_per_byte": nats / math.log(2) / size,
        "nats": nats,
        "characters": len(validation_ids),
        "bytes": size,
        "alphabet": len(alphabet),
        "iterations": iterations,
        "batch": options.batch,
        "seconds": round(seconds, 2),
        "evaluation_seconds": round(time.perf_counter() - started, 2),
        "train_loss_last": round(last_loss, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
