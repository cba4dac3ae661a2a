"""Every parameter of a model by name and shape, and its work per token, without building it.

Names and shapes are those of `groundup.models.decoder.Decoder`; a test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from groundup.recipe.model import Model

Shape = tuple[int, ...]


def layer_shapes(model: Model) -> Iterator[tuple[str, Shape]]:
    """Parameters of one layer, by name within the layer."""
    assert model.head_dim is not None
    assert model.kv_heads is not None
    assert model.ffn_size is not None
    width, query, kv = model.hidden_size, model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield "attention_norm.weight", (width,)
    yield "attention.query.weight", (query, width)
    yield "attention.key.weight", (kv, width)
    yield "attention.value.weight", (kv, width)
    yield "attention.output.weight", (width, query)
    if model.qk_norm:
        yield "attention.query_norm.weight", (model.head_dim,)
        yield "attention.key_norm.weight", (model.head_dim,)
    yield "ffn_norm.weight", (width,)
    experts = model.experts
    if experts is None:
        yield from _swiglu("ffn.", width, model.ffn_size, ".weight")
        return
    assert experts.ffn_size is not None
    yield "ffn.router.weight", (experts.count, width)
    for name, shape in _swiglu("ffn.experts.", width, experts.ffn_size, ""):
        yield name, (experts.count, *shape)
    if experts.shared_ffn_size:
        yield from _swiglu("ffn.shared.", width, experts.shared_ffn_size, ".weight")


def _swiglu(prefix: str, width: int, inner: int, suffix: str) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}gate{suffix}", (inner, width)
    yield f"{prefix}up{suffix}", (inner, width)
    yield f"{prefix}down{suffix}", (width, inner)


def parameter_shapes(model: Model, vocab_size: int) -> Iterator[tuple[str, Shape]]:
    """All parameters by global name."""
    yield "embedding.weight", (vocab_size, model.hidden_size)
    for layer in range(model.layers):
        for name, shape in layer_shapes(model):
            yield f"layers.{layer}.{name}", shape
    yield "norm.weight", (model.hidden_size,)
    if not model.tied_embeddings:
        yield "output.weight", (vocab_size, model.hidden_size)


@dataclass(frozen=True)
class Parameters:
    """Counts. `active`: those a token's forward pass uses, all but the experts it is not sent to."""

    total: int
    embedding: int
    active: int


def count_parameters(model: Model, vocab_size: int) -> Parameters:
    per_layer = dict(layer_shapes(model))
    layer = sum(math.prod(shape) for shape in per_layer.values())
    embedding = vocab_size * model.hidden_size
    total = model.layers * layer + embedding * (1 if model.tied_embeddings else 2) + model.hidden_size
    idle = 0
    if model.experts is not None:
        routed = sum(math.prod(per_layer[f"ffn.experts.{name}"]) for name in ("gate", "up", "down"))
        idle = model.layers * routed * (model.experts.count - model.experts.per_token) // model.experts.count
    return Parameters(total, embedding, total - idle)


def flops_per_token(model: Model, vocab_size: int, length: int) -> float:
    """Floating-point operations of training on one token: forward and twice that backward.

    6 per weight of every matrix a token passes, the output projection included and the embedding look-up not; and for
    attention 6 x layers x heads x head_dim x length, half of what full attention takes since it is causal
    (PaLM, arXiv:2204.02311, appendix B, halved). Recomputation is not counted.
    """
    assert model.head_dim is not None
    counts = count_parameters(model, vocab_size)
    norms = sum(math.prod(s) for n, s in layer_shapes(model) if "norm" in n) * model.layers + model.hidden_size
    looked_up = 0 if model.tied_embeddings else counts.embedding
    matrices = counts.active - norms - looked_up
    attention = 6 * model.layers * model.heads * model.head_dim * length
    return float(6 * matrices + attention)


def state_bytes(model: Model, vocab_size: int, optimizer: str) -> dict[str, int]:
    """Bytes of training state, all in fp32: weights, gradients, optimizer moments."""
    sizes = {n: math.prod(s) for n, s in parameter_shapes(model, vocab_size)}
    total = sum(sizes.values())
    hidden = total - sum(
        size for name, size in sizes.items() if "layers." not in name or "norm" in name or "router" in name
    )
    held = optimizer_bytes(optimizer, total, hidden)
    return {"weights": 4 * total, "gradients": 4 * total, "optimizer": held}


def optimizer_bytes(optimizer: str, total: int, hidden: int) -> int:
    """Of fp32 moments for so many parameters, of which `hidden` are in the matrices that Muon takes."""
    if optimizer == "muon":
        return 4 * (hidden + 2 * (total - hidden))
    return 4 * total * {"sgd": 1, "adam": 2, "adamw": 2}[optimizer]
