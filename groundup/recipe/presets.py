"""Published models by name, and tiny ones. Shapes are from each model's config.json on the Hugging Face hub."""

from __future__ import annotations

from typing import Any

_LLAMA_3 = {
    "vocab_size": 128_256,
    "head_dim": 128,
    "kv_heads": 8,
    "context_length": 8192,
    "norm_eps": 1e-5,
    "rope_theta": 500_000.0,
}
_LLAMA_3_1 = {
    **_LLAMA_3,
    "context_length": 131_072,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_context_length": 8192,
    },
}

PRESETS: dict[str, dict[str, Any]] = {
    # Trains in seconds; for tests and first steps.
    "tiny": {"hidden_size": 128, "layers": 4, "heads": 4, "kv_heads": 2, "ffn_size": 384, "context_length": 512},
    "tiny-moe": {
        "hidden_size": 128,
        "layers": 4,
        "heads": 4,
        "kv_heads": 2,
        "ffn_size": 192,
        "context_length": 512,
        "experts": {"count": 8, "per_token": 2},
    },
    # 8,030,261,248 parameters
    "llama-3-8b": {**_LLAMA_3, "hidden_size": 4096, "layers": 32, "heads": 32, "ffn_size": 14_336},
    # 70,553,706,496 parameters
    "llama-3-70b": {**_LLAMA_3, "hidden_size": 8192, "layers": 80, "heads": 64, "ffn_size": 28_672},
    # 405,853,388,800 parameters; exists as Llama 3.1 only
    "llama-3-405b": {**_LLAMA_3_1, "hidden_size": 16_384, "layers": 126, "heads": 128, "ffn_size": 53_248},
    # 596,049,920 parameters, 440,467,456 of them outside the embedding
    "qwen3-0.6b": {
        "vocab_size": 151_936,
        "hidden_size": 1024,
        "layers": 28,
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "ffn_size": 3072,
        "context_length": 40_960,
        "tied_embeddings": True,
        "qk_norm": True,
        "norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
    },
    # 46,702,792,704 parameters, 12,879,925,248 of them active per token
    "mixtral-8x7b": {
        "vocab_size": 32_000,
        "hidden_size": 4096,
        "layers": 32,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "ffn_size": 14_336,
        "context_length": 32_768,
        "norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "experts": {"count": 8, "per_token": 2, "auxiliary_weight": 0.02},
    },
}
