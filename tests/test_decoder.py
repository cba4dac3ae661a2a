"""The decoder: masks, cache, initial weights, mixture of experts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.models.cache import KeyValueCache
from groundup.models.decoder import Decoder, build_decoder
from groundup.random import fill_normal_, stream_key
from groundup.recipe.model import Experts, Model
from groundup.recipe.presets import PRESETS
from tests.shapes import MODELS, VOCAB, random_decoder, random_tokens

KINDS = ["llama", "qwen3-tied", "mixtral"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("restart_positions", [False, True])
def test_packed_documents_equal_documents_alone(name: str, restart_positions: bool) -> None:
    decoder = random_decoder(MODELS[name])
    lengths = [1, 17, 30, 16]
    tokens_BL = random_tokens(1, sum(lengths))
    documents_BL = torch.repeat_interleave(torch.tensor([7, 3, 9, 4]), torch.tensor(lengths))[None]
    positions_BL = torch.cat([torch.arange(n) for n in lengths])[None] if restart_positions else None
    with torch.no_grad():
        packed_BLD = decoder(tokens_BL, positions_BL, documents_BL).x_BLD
        alone_BLD = torch.cat([decoder(part).x_BLD for part in tokens_BL.split(lengths, 1)], 1)
        unmasked_BLD = decoder(tokens_BL).x_BLD
    torch.testing.assert_close(packed_BLD, alone_BLD, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(unmasked_BLD, alone_BLD, atol=1e-2)


@pytest.mark.parametrize("name", KINDS)
def test_no_token_sees_later_ones(name: str) -> None:
    decoder, tokens_BL = random_decoder(MODELS[name]), random_tokens(2, 24)
    changed_BL = tokens_BL.clone()
    changed_BL[:, 13:] = random_tokens(2, 11, seed=5)
    with torch.no_grad():
        x_BLD, changed_BLD = decoder(tokens_BL).x_BLD, decoder(changed_BL).x_BLD
    torch.testing.assert_close(x_BLD[:, :13], changed_BLD[:, :13], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(x_BLD[:, 13:], changed_BLD[:, 13:], atol=1e-2)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_decoding_with_a_cache_equals_the_full_forward(name: str) -> None:
    """Two rows of unlike length in the middle slots of a cache: prompts at once, then token by token."""
    decoder = random_decoder(MODELS[name])
    tokens_BL = random_tokens(2, 20)
    prompt_B = torch.tensor([9, 4])
    full_BLD = decoder(tokens_BL).x_BLD
    cache = KeyValueCache(decoder.model, 4, 32, torch.float32, "cpu")
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(1e3)  # what an earlier request left behind
    rows = cache.rows(1, 3)
    # The shorter row is filled up on the right; its filling is overwritten later.
    positions_BL = torch.arange(9).expand(2, -1)
    x_BLD = decoder(tokens_BL[:, :9], positions_BL, cache=rows, seen=9).x_BLD
    for row, length in enumerate(prompt_B):
        torch.testing.assert_close(x_BLD[row, :length], full_BLD[row, :length], atol=1e-4, rtol=1e-4)
    for step in range(11):
        at_B1 = (prompt_B + step)[:, None]
        x_BLD = decoder(tokens_BL.gather(1, at_B1), at_B1, cache=rows, seen=int(at_B1.max()) + 1).x_BLD
        expected_BLD = full_BLD.gather(1, at_B1[:, :, None].expand(-1, -1, full_BLD.shape[-1]))
        torch.testing.assert_close(x_BLD, expected_BLD, atol=1e-4, rtol=1e-4)
    for tensor in (*cache.keys, *cache.values):
        assert (tensor[[0, 3]] == 1e3).all()
        assert (tensor[1:3, :, :15] != 1e3).all()


@torch.no_grad()
def test_a_prompt_in_pieces_equals_the_prompt_at_once() -> None:
    decoder, tokens_BL = random_decoder(MODELS["llama"]), random_tokens(1, 20)
    cache = KeyValueCache(decoder.model, 1, 20, torch.float32, "cpu")
    parts = [
        decoder(part, torch.arange(end - part.shape[1], end)[None], cache=cache, seen=end).x_BLD
        for part, end in zip(tokens_BL.split([7, 12, 1], 1), (7, 19, 20), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), decoder(tokens_BL).x_BLD, atol=1e-4, rtol=1e-4)


PARAMETERS = {
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "qwen3-0.6b": 596_049_920,
    "mixtral-8x7b": 46_702_792_704,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    model = Model(**PRESETS[name])
    assert model.vocab_size is not None
    with torch.device("meta"):
        decoder = Decoder(model, model.vocab_size)
    assert sum(p.numel() for p in decoder.parameters()) == PARAMETERS[name]


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 2**40), skip=st.integers(0, 300), length=st.integers(1, 300))
def test_a_slice_of_a_stream_can_be_made_alone(start: int, skip: int, length: int) -> None:
    key = stream_key(3, "layers.0.ffn.gate")
    whole, part = torch.empty(600), torch.empty(length)
    fill_normal_(whole, key, 0.5, start)
    fill_normal_(part, key, 0.5, start + skip)
    assert torch.equal(part, whole[skip : skip + length])


def test_one_expert_of_a_stacked_parameter_can_be_made_alone_over_chunk_borders() -> None:
    key = stream_key(3, "layers.1.ffn.up")
    stacked_EFD = torch.empty(3, 512, 1024)
    fill_normal_(stacked_EFD, key, 0.02)
    for expert in range(3):
        alone_FD = torch.empty(512, 1024)
        fill_normal_(alone_FD, key, 0.02, start=expert * alone_FD.numel())
        assert torch.equal(alone_FD, stacked_EFD[expert])


def test_the_stream_is_normal() -> None:
    n = 1_200_000
    x = torch.empty(n)
    fill_normal_(x, stream_key(42, "embedding.weight"), 2.0)
    z = x.double() / 2
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.square().mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs(z.pow(3).mean()) < 5 * math.sqrt(15 / n)
    assert abs(z.pow(4).mean() - 3) < 5 * math.sqrt(96 / n)
    # Kolmogorov-Smirnov: 1.95 is exceeded once in a thousand streams.
    cdf = torch.special.ndtr(z.sort().values)
    assert (cdf - torch.arange(n) / n).abs().max() * math.sqrt(n) < 1.95
    for bound in (3.0, 4.0):
        expected = n * math.erfc(bound / math.sqrt(2))
        assert abs((z.abs() > bound).sum() - expected) < 5 * math.sqrt(expected)
    assert 4.3 < z.abs().max() < 6.8
    for lag in (1, 2, 1024):
        assert abs((z[lag:] * z[:-lag]).mean()) < 5 / math.sqrt(n)


def test_streams_of_other_names_and_seeds_are_unrelated() -> None:
    n, streams = 100_000, []
    for seed, name in ((1, "a"), (1, "b"), (2, "a"), (1, "layers.0.x"), (1, "layers.1.x")):
        streams.append(torch.empty(n))
        fill_normal_(streams[-1], stream_key(seed, name), 1.0)
    correlation = torch.corrcoef(torch.stack(streams))
    assert (correlation - torch.eye(5)).abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_initial_weights(name: str) -> None:
    model = Model(
        hidden_size=128,
        layers=8,
        heads=4,
        ffn_size=256,
        initializer_range=0.02,
        experts=Experts(count=4) if name == "mixtral" else None,
    )
    decoder, again, other = (build_decoder(model, 512, seed, "cpu") for seed in (7, 7, 8))
    for (key, weight), same, different in zip(
        decoder.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, same), key
        if "norm" in key:
            assert (weight == 1).all()
            continue
        assert not torch.equal(weight, different), key
        into_residual = key.endswith(("attention.output.weight", "ffn.down.weight", "ffn.experts.down"))
        std = 0.02 / 4 if into_residual else 0.02
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(weight.numel())), key
    with torch.no_grad():
        logits_BLV = decoder.logits(decoder(random_tokens(4, 64, vocab_size=512)).x_BLD)
    loss = F.cross_entropy(logits_BLV.flatten(0, 1), random_tokens(4, 64, seed=9, vocab_size=512).flatten())
    assert loss.item() == pytest.approx(math.log(512), abs=0.1)


def test_output_weight_is_the_embedding_where_tied() -> None:
    tied, untied = random_decoder(MODELS["llama-tied"]), random_decoder(MODELS["llama"])
    assert tied.output_weight is tied.embedding.weight
    assert untied.output_weight is not untied.embedding.weight
    assert tied.output_weight.shape == untied.output_weight.shape == (VOCAB, 64)
