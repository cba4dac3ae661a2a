"""The decoder: pre-norm transformer layers of attention and SwiGLU, dense or mixture of experts.

No parallel code here: layouts are applied from outside, as hooks on its modules and as blocks of its parameters.

Shapes: B batch, L sequence, D width of the model, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from groundup.models.attention import Attention, Context, runs_in_blocks
from groundup.models.cache import KeyValueCache
from groundup.models.experts import MixtureOfExperts, Router
from groundup.models.feedforward import FeedForward
from groundup.models.init import materialise
from groundup.models.initial import Initial
from groundup.models.linear import Linear, linear
from groundup.models.norm import RmsNorm
from groundup.models.rope import rotary_table
from groundup.optim.losses import LinearCrossEntropy
from groundup.recipe.model import Model


class Hidden(NamedTuple):
    """Output of the decoder before the projection to the vocabulary."""

    x_BLD: Tensor
    auxiliary: Tensor | None  # fp32 scalar: balancing loss summed over layers and tokens; None in a dense model


class Layer(nn.Module):
    def __init__(self, model: Model, layer: int) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(model.hidden_size, eps=model.norm_eps)
        self.attention = Attention(model, layer)
        self.ffn_norm = RmsNorm(model.hidden_size, eps=model.norm_eps)
        self.ffn: FeedForward | MixtureOfExperts
        if model.experts is None:
            assert model.ffn_size is not None
            self.ffn = FeedForward(model.hidden_size, model.ffn_size)
        else:
            self.ffn = MixtureOfExperts(model.hidden_size, model.experts)

    def forward(self, x_BLD: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), context)
        normed_BLD = self.ffn_norm(x_BLD)
        if isinstance(self.ffn, MixtureOfExperts):
            y_BLD, auxiliary = self.ffn(normed_BLD)
            return x_BLD + y_BLD, auxiliary
        return x_BLD + self.ffn(normed_BLD), None


class Decoder(nn.Module):
    """`vocab_size`: rows of the embedding."""

    cos_LK: Tensor
    sin_LK: Tensor

    def __init__(self, model: Model, vocab_size: int) -> None:
        super().__init__()
        self.model, self.vocab_size = model, vocab_size
        self.embedding = nn.Embedding(vocab_size, model.hidden_size)
        self.layers = nn.ModuleList([Layer(model, n) for n in range(model.layers)])
        self.norm = RmsNorm(model.hidden_size, eps=model.norm_eps)
        self.output = None if model.tied_embeddings else Linear(model.hidden_size, vocab_size, bias=False)
        self.cross_entropy = LinearCrossEntropy()
        self.masks_documents = True  # or attention looks at their ids itself
        self._make_rotary(self.embedding.weight.device)

    def _make_rotary(self, device: torch.device | str) -> None:
        cos_LK, sin_LK = rotary_table(self.model, self.model.context_length, device)
        self.register_buffer("cos_LK", cos_LK, persistent=False)
        self.register_buffer("sin_LK", sin_LK, persistent=False)

    def reset_buffers(self, device: torch.device | str) -> None:
        """Remake what is no parameter, which is lost when a meta model gets its memory."""
        for module in self.modules():
            if isinstance(module, Router):
                module.reset_buffers(device)
        self._make_rotary(device)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        """Norms are one; matrices normal with `initializer_range`, smaller where they lead into the residual stream, so
        that its variance does not grow with depth (GPT-2 report, section 2.3). No bias exists."""
        if "norm" in name.rsplit(".", 2)[-2]:
            return Initial("constant", 1.0)
        std = self.model.initializer_range
        into_residual = name.endswith((".output.weight", ".down.weight", ".down"))
        return Initial("normal", std / (2 * self.model.layers) ** 0.5 if into_residual else std)

    @property
    def output_weight(self) -> Tensor:
        """Projection to the vocabulary, [V, D]; the embedding itself where they are tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    def forward(
        self,
        tokens_BL: Tensor,
        positions_BL: Tensor | None = None,
        documents_BL: Tensor | None = None,
        cache: KeyValueCache | None = None,
        seen: int = 0,
        entering: Hidden | None = None,
    ) -> Hidden:
        """Hidden states after the final norm.

        tokens_BL: int64. positions_BL: int64, needed with a cache; default 0 .. L-1. documents_BL: ids; a token sees
        only its own document; None where each row is one document. cache: keys and values seen so far; `seen` is then
        the length of the longest row, the new tokens included. entering: what earlier layers, held elsewhere, made.
        """
        x_BLD, auxiliary = (self.embedding(tokens_BL), None) if entering is None else entering
        length = tokens_BL.shape[1]
        cos, sin = self.cos_LK[:length], self.sin_LK[:length]
        if positions_BL is not None:
            cos, sin = self.cos_LK[positions_BL], self.sin_LK[positions_BL]
        mask = None
        if cache is not None:
            assert positions_BL is not None
            mask = torch.arange(seen, device=tokens_BL.device) <= positions_BL[:, None, :, None]
        elif self._needs_mask(x_BLD, documents_BL, cos):
            assert documents_BL is not None
            mask = (documents_BL[:, None, :, None] == documents_BL[:, None, None, :]).tril()
        context = Context(cos, sin, mask, documents_BL, cache, positions_BL, seen)
        for layer in self.layers:
            x_BLD, layer_auxiliary = layer(x_BLD, context)
            if layer_auxiliary is not None:
                auxiliary = layer_auxiliary if auxiliary is None else auxiliary + layer_auxiliary
        return Hidden(self.norm(x_BLD), auxiliary)

    def _needs_mask(self, x_BLD: Tensor, documents_BL: Tensor | None, cos: Tensor) -> bool:
        if documents_BL is None or not self.masks_documents:
            return False
        return cos.ndim == 3 or not runs_in_blocks(x_BLD, documents_BL.shape[1])

    def logits(self, x_BLD: Tensor) -> Tensor:
        """Logits over the vocabulary for hidden states of any leading shape. Training uses the chunked loss instead."""
        return linear(x_BLD, self.output_weight)


def build_decoder(model_section: Model, vocab_size: int, seed: int, device: torch.device | str) -> Decoder:
    """A decoder with initial weights, made on the device itself: nothing is allocated twice."""
    with torch.device("meta"):
        decoder = Decoder(model_section, vocab_size)
    materialise(decoder, seed, device)
    return decoder
