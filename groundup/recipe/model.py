"""The recipe's `model` section: the shape of a decoder, dense or mixture of experts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from groundup.recipe.base import Section


class RopeScaling(Section):
    """Llama 3's stretching of the rotary frequencies beyond the context they were trained on
    (Llama 3 report, section 3.4; `rope_type = "llama3"` in Hugging Face's configuration)."""

    factor: PositiveFloat = Field(8.0, description="how many times longer the context becomes")
    low_freq_factor: PositiveFloat = Field(1.0, description="wavelengths above original / this are stretched fully")
    high_freq_factor: PositiveFloat = Field(4.0, description="wavelengths below original / this are left alone")
    original_context_length: PositiveInt = Field(8192, description="context before stretching, tokens")


class Experts(Section):
    """Mixture of experts in place of each layer's feed-forward part. Dropless; the router runs in fp32."""

    count: PositiveInt = Field(8, description="experts per layer")
    per_token: PositiveInt = Field(2, description="experts each token is sent to")
    ffn_size: PositiveInt | None = Field(None, description="width of one expert; default: model.ffn_size")
    shared_ffn_size: int = Field(0, ge=0, description="width of an expert that every token passes; 0: none")
    renormalise: bool = Field(True, description="scale the chosen experts' weights to sum to one")
    balance: Literal["auxiliary", "bias", "none"] = Field(
        "auxiliary",
        description="how load is evened out: an auxiliary loss per sequence, or a selection bias "
        "updated once per optimizer step (DeepSeek-V3), or not at all",
    )
    auxiliary_weight: float = Field(0.01, ge=0, description="weight of the auxiliary loss")
    bias_update_rate: float = Field(0.001, ge=0, description="step of the selection bias")


class Model(Section):
    """Shape of the decoder. A preset gives a published model's values; any of them can be overridden."""

    preset: str | None = Field(None, description="a published or tiny model by name, for example llama-3-8b")
    vocab_size: PositiveInt | None = Field(None, description="rows of the embedding; default: the tokenizer's size")
    hidden_size: PositiveInt = Field(256, description="width of the residual stream")
    layers: PositiveInt = Field(4, description="transformer layers")
    heads: PositiveInt = Field(4, description="query heads per layer")
    kv_heads: PositiveInt | None = Field(None, description="key-value heads per layer; default: heads")
    head_dim: PositiveInt | None = Field(None, description="width of a head; default: hidden_size / heads")
    ffn_size: PositiveInt | None = Field(
        None, description="width of the SwiGLU part; default: 8/3 of hidden_size, rounded up to 64"
    )
    context_length: PositiveInt = Field(2048, description="longest sequence the model is meant for, tokens")
    tied_embeddings: bool = Field(False, description="use the embedding as output projection too")
    qk_norm: bool = Field(False, description="RMSNorm over each query and key head (Qwen3)")
    norm_eps: PositiveFloat = Field(1e-5, description="epsilon of RMSNorm")
    rope_theta: PositiveFloat = Field(10_000.0, description="base of the rotary frequencies")
    rope_scaling: RopeScaling | None = Field(None, description="Llama 3's rotary scaling; default: none")
    initializer_range: PositiveFloat = Field(0.02, description="standard deviation of the initial weights")
    experts: Experts | None = Field(None, description="mixture of experts; default: a dense model")

    @model_validator(mode="after")
    def _derive(self) -> Self:
        """Fill what follows from the rest, so that a resolved recipe shows every value."""
        set_ = object.__setattr__
        if self.kv_heads is None:
            set_(self, "kv_heads", self.heads)
        if self.head_dim is None and self.hidden_size % self.heads == 0:
            set_(self, "head_dim", self.hidden_size // self.heads)
        if self.ffn_size is None:
            set_(self, "ffn_size", (8 * self.hidden_size // 3 + 63) // 64 * 64)
        if self.experts is not None and self.experts.ffn_size is None:
            set_(self.experts, "ffn_size", self.ffn_size)
        return self

    @property
    def hf_architecture(self) -> str | None:
        """The Hugging Face class that computes exactly this model; None where there is none (see `hf_obstacle`)."""
        if self.hf_obstacle:
            return None
        if self.experts is None:
            return "Qwen3ForCausalLM" if self.qk_norm else "LlamaForCausalLM"
        return "Qwen3MoeForCausalLM" if self.qk_norm else "MixtralForCausalLM"

    @property
    def hf_obstacle(self) -> str:
        """Why no Hugging Face class computes this model; empty where one does."""
        if not self.qk_norm and self.experts is None and self.hidden_size % self.heads:
            return f"Llama's hidden_size ({self.hidden_size}) must be a multiple of heads ({self.heads})"
        if self.experts is None:
            return ""
        if self.experts.shared_ffn_size:
            return "neither Mixtral nor Qwen3-MoE has shared experts (model.experts.shared_ffn_size)"
        if self.experts.balance == "bias":
            return 'neither Mixtral nor Qwen3-MoE has a selection bias (model.experts.balance = "bias")'
        if not self.qk_norm and not self.experts.renormalise:
            return "Mixtral always rescales the chosen experts' weights (model.experts.renormalise = false)"
        return ""
