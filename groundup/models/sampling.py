"""Choosing the next token, and plain batch generation for sample texts.

Every choice is a function of the logits, the request's settings and one number, a hash of (seed, row,
position). So what a request gets does not depend on what else is in the batch.

Shapes: B batch, L tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from groundup.models.cache import KeyValueCache
from groundup.models.decoder import Decoder
from groundup.optim.precision import autocast_dtype
from groundup.random import hash_counters, stream_key

# Below this a temperature is as good as zero: logits a thousandth apart differ by a factor of e^100 in
# probability.
_GREEDY_BELOW = 1e-5
# Probabilities are summed as whole multiples of 2^-40: exact in any order, and deterministic on every device.
_UNIT = float(1 << 40)


def uniforms(seed: int, row: int, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
    """Numbers in [0, 1) for the tokens at positions start .. stop - 1 of a sequence; fp64 [stop - start].

    row: tells apart several continuations under one seed.
    """
    bits = hash_counters(stream_key(seed, f"sampling/{row}"), torch.arange(start, stop, device=device))
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def choose(logits_BV: Tensor, temperature_B: Tensor, top_k_B: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """The next token of each row, int64 [B].

    temperature_B: 0 gives the likeliest token, the first one where several are equal. top_k_B: int64, choose
    among this many; 0 or less: among all. top_p_B: choose among the fewest tokens whose probability, after
    the temperature and within the top k, reaches this. uniform_B: fp64 in [0, 1), where in the distribution
    to choose (inverse transform sampling). Of logits that are not finite it gives any token.
    """
    greedy_B = temperature_B < _GREEDY_BELOW
    if bool(greedy_B.all()):
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float()
    warmth_B = torch.where(greedy_B, 1.0, temperature_B)
    # The largest logit is taken off first, so that no temperature makes one infinite.
    probability_BV = ((logits_BV - logits_BV.amax(-1, keepdim=True)) / warmth_B[:, None]).softmax(-1)
    mass_BV = (probability_BV.double() * _UNIT).long()
    if bool(((top_k_B > 0) | (top_p_B < 1)).any()):
        mass_BV = _keep_likeliest(mass_BV, logits_BV, top_k_B, top_p_B)
    reached_BV = mass_BV.cumsum(-1)
    target_B1 = (uniform_B[:, None] * reached_BV[:, -1:]).long()
    # A training that diverges must come to its own words for it, and not fail over a sample text.
    drawn_B = torch.searchsorted(reached_BV, target_B1, right=True).squeeze(-1).clamp(max=logits_BV.shape[-1] - 1)
    return torch.where(greedy_B, logits_BV.argmax(-1), drawn_B)


def _keep_likeliest(mass_BV: Tensor, logits_BV: Tensor, top_k_B: Tensor, top_p_B: Tensor) -> Tensor:
    """The masses with those outside the top k and the top p set to zero. Of equals the first are kept."""
    order_BV = logits_BV.sort(dim=-1, descending=True, stable=True).indices
    sorted_BV = mass_BV.gather(-1, order_BV)
    rank_V = torch.arange(mass_BV.shape[-1], device=mass_BV.device)
    limit_B1 = torch.where(top_k_B > 0, top_k_B, mass_BV.shape[-1])[:, None]
    sorted_BV = sorted_BV.masked_fill(rank_V >= limit_B1, 0)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    wanted_B1 = sorted_BV.sum(-1, keepdim=True) * top_p_B.double()[:, None]
    sorted_BV = sorted_BV.masked_fill((before_BV >= wanted_B1) & (rank_V > 0), 0)
    return torch.zeros_like(mass_BV).scatter(-1, order_BV, sorted_BV)


def generate(
    decoder: Decoder,
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """Continue each prompt; returns the new tokens of each, without the prompt and without the stop token.

    A row ends at a token of `stop_ids`, after `max_new_tokens`, or where the model's context is full. Works
    under autocast, and leaves the decoder's training mode as it was. Raises ValueError for an empty prompt or
    one longer than the context.
    """
    context_length = decoder.model.context_length
    lengths = [len(ids) for ids in prompt_ids]
    if not lengths or max_new_tokens < 1:
        return [[] for _ in lengths]
    if min(lengths) < 1 or max(lengths) > context_length:
        raise ValueError(f"a prompt holds 1 to {context_length} tokens; these hold {min(lengths)} to {max(lengths)}")
    training = decoder.training
    decoder.eval()
    try:
        with torch.inference_mode(), _without_compiling():
            settings = (temperature, top_k, top_p)
            return _generate(decoder, prompt_ids, max_new_tokens, settings, seed, set(stop_ids))
    finally:
        decoder.train(training)


def _generate(
    decoder: Decoder,
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    settings: tuple[float, int, float],
    seed: int,
    stop_ids: set[int],
) -> list[list[int]]:
    device, lengths = decoder.embedding.weight.device, [len(ids) for ids in prompt_ids]
    rows, longest = len(lengths), max(lengths)
    total = min(longest + max_new_tokens, decoder.model.context_length)
    dtype = autocast_dtype(decoder.embedding.weight)
    cache = KeyValueCache(decoder.model, rows, total, dtype, device)
    temperature_B = torch.full((rows,), settings[0], device=device)
    top_k_B = torch.full((rows,), settings[1], device=device)
    top_p_B = torch.full((rows,), settings[2], device=device)
    uniform_BN = torch.stack(
        [uniforms(seed, row, length, length + max_new_tokens, device) for row, length in enumerate(lengths)]
    )

    # Shorter prompts are filled up on the right: no earlier token sees the filling, and new tokens overwrite
    # it.
    tokens_BL = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in prompt_ids], device=device)
    positions_BL = torch.arange(longest, device=device).expand(rows, -1)
    x_BLD = decoder(tokens_BL, positions_BL, cache=cache, seen=longest).x_BLD
    last_B = torch.tensor(lengths, device=device) - 1
    x_BD = x_BLD[torch.arange(rows, device=device), last_B]

    new_ids: list[list[int]] = [[] for _ in lengths]
    running = set(range(rows))
    for step in range(max_new_tokens):
        ids_B = choose(decoder.logits(x_BD), temperature_B, top_k_B, top_p_B, uniform_BN[:, step])
        for row, token in enumerate(ids_B.tolist()):
            if row not in running:
                continue
            if token not in stop_ids and lengths[row] + step < decoder.model.context_length:
                new_ids[row].append(token)
            else:
                running.remove(row)
        if not running or step + 1 == max_new_tokens:
            break
        # Rows that have ended are computed on, in place, up to the last position there is.
        positions_B1 = (last_B + step + 1).clamp(max=total - 1)[:, None]
        seen = min(longest + step + 1, total)
        x_BD = decoder(ids_B[:, None], positions_B1, cache=cache, seen=seen).x_BLD[:, 0]
    return new_ids


def _without_compiling() -> AbstractContextManager[object]:
    """Lengths change with every token: compiled layers would be compiled again and again."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
