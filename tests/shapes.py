"""Small random models of each kind that Hugging Face knows, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from groundup.models import huggingface as hf
from groundup.models.decoder import Decoder, build_decoder
from groundup.recipe.model import Experts, Model, RopeScaling

VOCAB = 320
_BASE = {"hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_size": 96, "context_length": 128}
# Wide initial weights, so that attention and routing are far from uniform.
_BASE["initializer_range"] = 0.2
_SCALING = RopeScaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context_length=32)

MODELS: dict[str, Model] = {
    "llama": Model(**_BASE, rope_scaling=_SCALING, rope_theta=500.0),
    "llama-tied": Model(**_BASE, tied_embeddings=True),
    "qwen3": Model(**_BASE, head_dim=24, qk_norm=True, norm_eps=1e-6, rope_theta=1e6),
    "qwen3-tied": Model(**_BASE, qk_norm=True, tied_embeddings=True),
    "mixtral": Model(**_BASE, experts=Experts(count=4, per_token=2), rope_theta=1e6),
    "qwen3-moe": Model(**_BASE, qk_norm=True, experts=Experts(count=8, per_token=3, ffn_size=32)),
    "qwen3-moe-raw": Model(
        **_BASE,
        qk_norm=True,
        experts=Experts(count=4, per_token=2, renormalise=False, balance="none", auxiliary_weight=0.0),
    ),
}


def random_decoder(model: Model, seed: int = 1, vocab_size: int = VOCAB) -> Decoder:
    """Initial weights, with norms away from one, so that a norm in the wrong place is noticed."""
    decoder = build_decoder(model, vocab_size, seed, "cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" in name:
                parameter.add_(torch.rand(parameter.shape, generator=generator), alpha=0.5)
    return decoder.eval()


def random_tokens(rows: int, length: int, seed: int = 2, vocab_size: int = VOCAB) -> torch.Tensor:
    return torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def write_folder(decoder: Decoder, folder: Path, max_shard_bytes: int = 10**9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = hf.to_config(decoder.model, decoder.vocab_size, dtype=torch.float32, bos=0, eos=0)
    (folder / "config.json").write_text(json.dumps(config))
    state = dict(decoder.named_parameters())
    hf.save_weights(hf.published_tensors(state, decoder.model), folder, max_shard_bytes)
    return folder


def logits(decoder: Decoder, tokens_BL: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(tokens_BL).x_BLD)
