"""Hugging Face weights in both directions: Llama, Qwen3, Mixtral and Qwen3-MoE.

A stacked tensor of experts is one tensor per expert in a published checkpoint; else only names change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from groundup.errors import UserError
from groundup.models.decoder import Decoder
from groundup.models.huggingface_config import from_config, require_exportable, to_config
from groundup.models.weights import StoredWeights, save_weights
from groundup.recipe.model import Model

__all__ = [
    "decoder_from",
    "empty_decoder",
    "from_config",
    "from_huggingface",
    "load_decoder",
    "load_weights",
    "name_table",
    "published_tensors",
    "require_exportable",
    "save_weights",
    "to_config",
    "to_huggingface",
]

# Names within a layer, ours to theirs. "{expert}": a stacked tensor of ours is one tensor per expert there.
_ATTENTION = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_QK_NORM = {
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
}
_DENSE = {
    "ffn.gate.weight": "mlp.gate_proj.weight",
    "ffn.up.weight": "mlp.up_proj.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}
_MIXTRAL = {
    "ffn.router.weight": "block_sparse_moe.gate.weight",
    "ffn.experts.gate": "block_sparse_moe.experts.{expert}.w1.weight",
    "ffn.experts.up": "block_sparse_moe.experts.{expert}.w3.weight",
    "ffn.experts.down": "block_sparse_moe.experts.{expert}.w2.weight",
}
_QWEN3_MOE = {
    "ffn.router.weight": "mlp.gate.weight",
    "ffn.experts.gate": "mlp.experts.{expert}.gate_proj.weight",
    "ffn.experts.up": "mlp.experts.{expert}.up_proj.weight",
    "ffn.experts.down": "mlp.experts.{expert}.down_proj.weight",
}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def name_table(model: Model) -> dict[str, str]:
    """Our parameter names to the published ones, where "{expert}" stands for each expert's number."""
    layer = _ATTENTION | (_QK_NORM if model.qk_norm else {})
    if model.experts is None:
        layer |= _DENSE
    else:
        layer |= _QWEN3_MOE if model.qk_norm else _MIXTRAL
    table = {"embedding.weight": _EMBEDDING, "norm.weight": "model.norm.weight"}
    if not model.tied_embeddings:
        table["output.weight"] = _HEAD
    for n in range(model.layers):
        table |= {f"layers.{n}.{ours}": f"model.layers.{n}.{theirs}" for ours, theirs in layer.items()}
    return table


def published_tensors(state: Mapping[str, Tensor], model: Model) -> Iterator[tuple[str, Tensor]]:
    """Each weight under its published name, one at a time.

    state: exactly the decoder's parameters, whole. Raises as `to_huggingface` does.
    """
    require_exportable(model)
    table = name_table(model)
    if state.keys() != table.keys():
        raise KeyError(f"not this model's parameters: {sorted(state.keys() ^ table.keys())[:4]}")
    for ours, theirs in table.items():
        if "{expert}" in theirs:
            yield from ((theirs.format(expert=n), tensor) for n, tensor in enumerate(state[ours]))
        else:
            yield theirs, state[ours]


def to_huggingface(state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """The published names and tensors (views, nothing is copied) of a decoder's parameters.

    Raises UserError where no Hugging Face class computes this model, KeyError where `state` isn't its
    parameters.
    """
    return dict(published_tensors(state, model))


def from_huggingface(state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """A decoder's parameters out of published tensors. `state` may be lazy: each tensor is asked for once."""
    weights = {}
    for ours, theirs in name_table(model).items():
        if "{expert}" in theirs:
            assert model.experts is not None
            weights[ours] = torch.stack([state[theirs.format(expert=n)] for n in range(model.experts.count)])
        else:
            weights[ours] = state[theirs]
    return weights


def empty_decoder(model: Model, vocab_size: int) -> Decoder:
    """A decoder without memory for its parameters."""
    with torch.device("meta"):
        return Decoder(model, vocab_size)


def decoder_from(state: Mapping[str, Tensor], model: Model, vocab_size: int) -> Decoder:
    """A decoder around these very tensors (not copies of them), ready to evaluate."""
    decoder = empty_decoder(model, vocab_size)
    decoder.load_state_dict(dict(state), assign=True)
    device = decoder.embedding.weight.device
    for module in decoder.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, torch.zeros_like(buffer, device=device))
    decoder.reset_buffers(device)
    return decoder.eval()


def _published_shapes(model: Model, vocab_size: int) -> dict[str, tuple[int, ...]]:
    state = dict(empty_decoder(model, vocab_size).named_parameters())
    return {name: tuple(tensor.shape) for name, tensor in to_huggingface(state, model).items()}


def load_weights(
    folder: Path,
    model: Model,
    vocab_size: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """A decoder's parameters out of a folder's safetensors. dtype: None keeps what is stored.

    Names, shapes and dtypes are compared with what the model implies before anything is read.
    Raises UserError for what doesn't fit; pickles are never opened.
    """
    stored = StoredWeights(folder)
    # Old Llama checkpoints carry rotary tables, and some with tied embeddings carry the one matrix twice.
    optional = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq" for n in range(model.layers)}
    if model.tied_embeddings:
        optional.add(_HEAD)
    stored.check(_published_shapes(model, vocab_size), optional)
    if model.tied_embeddings and _HEAD in stored and not torch.equal(stored[_HEAD], stored[_EMBEDDING]):
        raise UserError(
            f"{_HEAD} differs from {_EMBEDDING}, but config.json says that they are one",
            where=str(folder),
            expected="equal matrices, or tie_word_embeddings = false",
        )
    return from_huggingface(_Placed(stored, device, dtype), model)


class _Placed(Mapping[str, Tensor]):
    """Tensors put on a device, in a dtype, one at a time as they are asked for."""

    def __init__(self, source: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype | None):
        self.source, self.device, self.dtype = source, device, dtype

    def __getitem__(self, name: str) -> Tensor:
        return self.source[name].to(self.device, self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)


def load_decoder(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> Decoder:
    """The decoder in an export of ours or a published folder, ready to evaluate. Rotary tables stay fp32.

    dtype: of the weights; None keeps what is stored. Raises UserError for whatever can't be read or isn't
    computed.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        what = "there is no config.json"
        raise UserError(what, where=str(folder), expected="a Hugging Face model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can't be read as JSON: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise UserError("this is no configuration", where=str(path), expected="a JSON object")
    model, vocab_size = from_config(config, str(path))
    return decoder_from(load_weights(folder, model, vocab_size, device, dtype), model, vocab_size)
