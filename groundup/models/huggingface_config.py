"""Hugging Face's config.json in both directions, for Llama, Qwen3, Mixtral and Qwen3-MoE.

Nothing is guessed: what this decoder doesn't compute is refused by the field's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from groundup.errors import UserError
from groundup.recipe.model import Experts, Model, RopeScaling

_MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "Qwen3ForCausalLM": "qwen3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
# Fields of which this decoder computes one value: written so, and refused when read if they differ.
_FIXED: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": False, "mlp_bias": False},
    "qwen3": {"attention_bias": False, "use_sliding_window": False},
    "mixtral": {"sliding_window": None, "router_jitter_noise": 0.0},
    "qwen3_moe": {
        "attention_bias": False,
        "use_sliding_window": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
}
_FIXED_FOR_ALL: dict[str, Any] = {"hidden_act": "silu", "attention_dropout": 0.0}
_REFUSED = {
    "quantization_config": "unquantised weights",
    "auto_map": "a model without code of its own",
}
_DEFAULT_THETA = {"mixtral": 1e6}
_ROPE_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_context_length": "original_max_position_embeddings",
}


def require_exportable(model: Model) -> str:
    """The Hugging Face class that computes exactly this model. Raises UserError where there is none."""
    architecture = model.hf_architecture
    if architecture is None:
        raise UserError(f"this model can't be exported: {model.hf_obstacle}", where="model")
    return architecture


def to_config(
    model: Model,
    vocab_size: int,
    *,
    dtype: torch.dtype,
    bos: int | None = None,
    eos: int | None = None,
    pad: int | None = None,
) -> dict[str, Any]:
    """The content of config.json. bos, eos, pad: token ids.

    Raises UserError where no Hugging Face class computes this model.
    """
    architecture = require_exportable(model)
    kind = _MODEL_TYPES[architecture]
    rope: dict[str, Any] = {"rope_type": "default"}
    if model.rope_scaling is not None:
        rope = {"rope_type": "llama3"}
        rope |= {theirs: getattr(model.rope_scaling, ours) for ours, theirs in _ROPE_KEYS.items()}
    dtype_name = str(dtype).removeprefix("torch.")
    config = {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied_embeddings,
        "initializer_range": model.initializer_range,
        # transformers 5 reads the first; older readers know only the others and would take defaults.
        "rope_parameters": {**rope, "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,
        "rope_scaling": rope if model.rope_scaling is not None else None,
        "dtype": dtype_name,
        "torch_dtype": dtype_name,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "use_cache": True,
        **_FIXED_FOR_ALL,
        **_FIXED[kind],
    }
    experts = model.experts
    if experts is not None:
        config["num_experts_per_tok"] = experts.per_token
        config["router_aux_loss_coef"] = experts.auxiliary_weight if experts.balance == "auxiliary" else 0.0
        if kind == "mixtral":
            config |= {"num_local_experts": experts.count, "intermediate_size": experts.ffn_size}
        else:
            config |= {"num_experts": experts.count, "moe_intermediate_size": experts.ffn_size}
            config["norm_topk_prob"] = experts.renormalise
    return config


class _Fields:
    """A config.json whose values are taken by name, kind and range."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def refuse(self, key: str, value: Any, expected: str) -> UserError:
        what = f"{key} is {json.dumps(value)}, which Groundup doesn't compute"
        return UserError(what, where=self.where, expected=expected)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._bad(key, value, "a whole number above zero")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self._bad(key, value, "a number above zero")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.config.get(key)
        if not isinstance(value, bool | None):
            raise self._bad(key, value, "true or false")
        return bool(value)

    def _bad(self, key: str, value: Any, expected: str) -> UserError:
        what = f"{key} is missing" if value is None else f"{key} is {json.dumps(value)}"
        return UserError(what, where=self.where, expected=expected)


def _model_type(fields: _Fields) -> str:
    """Refuse whatever this decoder doesn't compute; return the model's type."""
    config, kind = fields.config, fields.config.get("model_type")
    if not isinstance(kind, str) or kind not in _FIXED:
        raise fields.refuse("model_type", kind, "one of " + ", ".join(_FIXED))
    classes = config.get("architectures")
    architecture = next(name for name, its_kind in _MODEL_TYPES.items() if its_kind == kind)
    if classes and classes != [architecture]:
        raise fields.refuse("architectures", classes, architecture)
    for key, fixed in (_FIXED_FOR_ALL | _FIXED[kind]).items():
        if config.get(key) is not None and config[key] != fixed:
            raise fields.refuse(key, config[key], json.dumps(fixed))
    for key, expected in _REFUSED.items():
        if config.get(key):
            raise fields.refuse(key, config[key], expected)
    if any(layer != "full_attention" for layer in config.get("layer_types") or ()):
        raise fields.refuse("layer_types", config["layer_types"], "full_attention in every layer")
    return kind


def _rope(fields: _Fields, kind: str) -> tuple[float, RopeScaling | None]:
    """Base of the frequencies and their scaling.

    transformers 5 spells them `rope_parameters`, older ones `rope_theta` and `rope_scaling`; they must agree.
    """
    found: dict[str, Any] = {}
    theta = fields.config.get("rope_theta")
    older, newer = fields.config.get("rope_scaling"), fields.config.get("rope_parameters")
    table = "rope_parameters" if newer else "rope_scaling"
    for part in ({"rope_theta": theta}, older or {}, newer or {}):
        if not isinstance(part, dict):
            raise fields.refuse(table, part, "a table")
        for key, value in part.items():
            key = "rope_type" if key == "type" else key
            if value is not None and found.setdefault(key, value) != value:
                raise fields.refuse(f"{table}.{key}", value, f"{found[key]!r}, as another field says")
    partial = found.pop("partial_rotary_factor", fields.config.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise fields.refuse("partial_rotary_factor", partial, "1")
    rope_type = found.pop("rope_type", "default")
    if rope_type not in ("default", "llama3"):
        raise fields.refuse(f"{table}.rope_type", rope_type, '"default" or "llama3"')
    unknown = found.keys() - {"rope_theta", *_ROPE_KEYS.values()}
    if unknown:
        key = min(unknown)
        raise fields.refuse(f"{table}.{key}", found[key], "only Llama 3's fields")
    inner = _Fields(found, fields.where)
    base = inner.real("rope_theta", _DEFAULT_THETA.get(kind, 1e4))
    if rope_type == "default":
        return base, None
    low, high = inner.real("low_freq_factor"), inner.real("high_freq_factor")
    if high <= low:
        raise fields.refuse(f"{table}.high_freq_factor", high, f"more than low_freq_factor ({low})")
    return base, RopeScaling(
        factor=inner.real("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_context_length=inner.whole(
            "original_max_position_embeddings", fields.whole("max_position_embeddings")
        ),
    )


def from_config(config: Mapping[str, Any], where: str = "config.json") -> tuple[Model, int]:
    """The model section and the rows of the embedding that a config.json asks for.

    Raises UserError, naming the field, for what is missing, malformed or not computed by this decoder.
    """
    fields = _Fields(config, where)
    kind = _model_type(fields)
    theta, scaling = _rope(fields, kind)
    hidden_size, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    kv_heads = fields.whole("num_key_value_heads", heads)
    head_dim = fields.whole("head_dim", 128 if kind == "qwen3" else hidden_size // heads)
    if heads % kv_heads:
        raise fields.refuse("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads ({heads})")
    if head_dim % 2:
        raise fields.refuse("head_dim", head_dim, "an even width, since rotary embeddings turn pairs")
    experts = None
    if kind in ("mixtral", "qwen3_moe"):
        balanced = config.get("router_aux_loss_coef") != 0
        coefficient = fields.real("router_aux_loss_coef", 0.001) if balanced else 0.0
        count_key = "num_local_experts" if config.get("num_experts") is None else "num_experts"
        experts = Experts(
            count=fields.whole(count_key),
            per_token=fields.whole("num_experts_per_tok"),
            ffn_size=fields.whole("intermediate_size" if kind == "mixtral" else "moe_intermediate_size"),
            renormalise=kind == "mixtral" or fields.flag("norm_topk_prob"),
            balance="auxiliary" if balanced else "none",
            auxiliary_weight=coefficient,
        )
        if experts.per_token > experts.count:
            expected = f"at most {count_key} ({experts.count})"
            raise fields.refuse("num_experts_per_tok", experts.per_token, expected)
    model = Model(
        hidden_size=hidden_size,
        layers=fields.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=fields.whole("intermediate_size"),
        context_length=fields.whole("max_position_embeddings"),
        tied_embeddings=fields.flag("tie_word_embeddings"),
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        norm_eps=fields.real("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        initializer_range=fields.real("initializer_range", 0.02),
        experts=experts,
    )
    return model, fields.whole("vocab_size")
