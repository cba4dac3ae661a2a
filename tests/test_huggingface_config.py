"""Hugging Face configurations: published ones are read, and what isn't computed is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from groundup.errors import UserError
from groundup.models import huggingface as hf
from groundup.recipe.model import Experts, Model
from tests.shapes import MODELS, VOCAB


@pytest.mark.parametrize("name", MODELS)
def test_configuration_round_trip(name: str) -> None:
    config = hf.to_config(MODELS[name], VOCAB, dtype=torch.bfloat16, bos=1, eos=2)
    assert hf.from_config(config) == (MODELS[name], VOCAB)
    newer = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
    older = {key: value for key, value in config.items() if key != "rope_parameters"}
    assert hf.from_config(newer) == hf.from_config(older) == (MODELS[name], VOCAB)


def test_published_configurations_are_read() -> None:
    """The fields of three config.json files as their owners published them."""
    common = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "use_cache": True}
    llama, rows = hf.from_config(
        {
            **common,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "bos_token_id": 128000,
            "eos_token_id": [128001, 128008, 128009],
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 128256,
        }
    )
    assert (rows, llama.head_dim, llama.rope_theta) == (128256, 128, 5e5)
    assert llama.rope_scaling is not None
    assert llama.rope_scaling.original_context_length == 8192
    mixtral, _ = hf.from_config(
        {
            **common,
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "output_router_logits": False,
            "rms_norm_eps": 1e-05,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        }
    )
    assert mixtral.experts is not None
    assert (mixtral.experts.ffn_size, mixtral.experts.auxiliary_weight) == (14336, 0.02)
    qwen, _ = hf.from_config(
        {
            **common,
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "head_dim": 128,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "max_position_embeddings": 40960,
            "max_window_layers": 48,
            "mlp_only_layers": [],
            "moe_intermediate_size": 768,
            "norm_topk_prob": True,
            "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 48,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        }
    )
    assert qwen.experts is not None
    assert (qwen.experts.count, qwen.experts.ffn_size, qwen.experts.renormalise) == (128, 768, True)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"attention_bias": True}, "attention_bias"),
    ("llama", {"mlp_bias": True}, "mlp_bias"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"attention_dropout": 0.1}, "attention_dropout"),
    ("llama", {"model_type": "mistral"}, "model_type"),
    ("llama", {"model_type": None}, "model_type"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ("llama", {"auto_map": {"AutoModel": "code.Model"}}, "auto_map"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"rope_theta": 7.0}, "rope_theta"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
    ("llama-tied", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type"),
    ("llama-tied", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    ("llama", {"hidden_size": None}, "hidden_size"),
    ("llama", {"num_hidden_layers": "2"}, "num_hidden_layers"),
    ("llama", {"vocab_size": -1}, "vocab_size"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
    ("llama", {"head_dim": 15}, "head_dim"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("mixtral", {"sliding_window": 4096}, "sliding_window"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise"),
    ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok"),
    ("qwen3-moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ("qwen3-moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
    ("qwen3-moe", {"num_experts": None}, "num_local_experts"),
]


@pytest.mark.parametrize(("name", "change", "field"), REFUSED, ids=[f"{n}-{f}" for n, _, f in REFUSED])
def test_what_is_not_computed_is_refused_by_name(name: str, change: dict[str, Any], field: str) -> None:
    config = hf.to_config(MODELS[name], VOCAB, dtype=torch.float32) | change
    with pytest.raises(UserError) as caught:
        hf.from_config(config, "some/config.json")
    assert field in caught.value.what
    assert caught.value.where == "some/config.json"
    assert caught.value.expected


@pytest.mark.parametrize(
    "model",
    [
        Model(experts=Experts(shared_ffn_size=8)),
        Model(experts=Experts(balance="bias")),
        Model(experts=Experts(renormalise=False)),
        Model(hidden_size=64, heads=3, head_dim=16),
    ],
)
def test_a_model_without_a_class_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match="can't be exported"):
        hf.to_config(model, VOCAB, dtype=torch.float32)
