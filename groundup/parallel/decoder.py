"""Tensor, context and expert parallelism of the decoder: how its parameters are cut, and hooks at its modules' doors.

Between its modules a rank holds a block of the sequence: first cut over the context ranks, then over the tensor ranks
(sequence parallelism, arXiv:2205.05198). Attention and the feed-forward part gather the tensor ranks' blocks, work on
their heads or their share of the inner width, and sum to blocks again. Attention proper needs the whole sequence:
context ranks exchange sequence for heads around it (arXiv:2309.14509), or pass keys and values round (ring.py). Experts
are cut over the expert ranks, to which each token's copies travel and from which they return.

Shapes: B batch, L sequence, D width of the model, H heads, K width of a head, E experts, P routed copies.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from groundup.models.attention import Attention, CoreAttention
from groundup.models.decoder import Decoder
from groundup.models.experts import ExpertStack, MixtureOfExperts, Router
from groundup.models.feedforward import FeedForward
from groundup.optim.losses import VocabularyCut
from groundup.parallel.collectives import (
    exchange_rows,
    gather_for_shares,
    heads_to_sequence,
    sequence_to_heads,
    sum_to_blocks,
)
from groundup.parallel.cut import Cuts
from groundup.parallel.mesh import Mesh
from groundup.parallel.ring import attend_in_ring, own_pieces

SEQUENCE = 1  # the dimension of [B, L, D] that is cut

# The dimension along which the tensor ranks cut a parameter, by the end of its name.
_TENSOR_CUTS = {
    "attention.query.weight": 0,
    "attention.key.weight": 0,
    "attention.value.weight": 0,
    "attention.output.weight": 1,
    "ffn.gate.weight": 0,
    "ffn.up.weight": 0,
    "ffn.down.weight": 1,
    "ffn.shared.gate.weight": 0,
    "ffn.shared.up.weight": 0,
    "ffn.shared.down.weight": 1,
    "ffn.experts.gate": 1,
    "ffn.experts.up": 1,
    "ffn.experts.down": 2,
}
_VOCABULARY = ("embedding.weight", "output.weight")


def cut_decoder(model: Decoder, mesh: Mesh, ring: bool = False) -> Cuts:
    """Cut the parameters of a decoder without memory, and hang the layout's hooks on its modules. ring: context ranks
    pass keys and values round, in place of exchanging sequence for heads."""
    cuts = Cuts()
    layout = mesh.layout
    names = [name for name, _ in model.named_parameters()]
    for name in names:
        if layout.expert > 1 and ".ffn.experts." in name:
            cuts.cut(model, name, 0, "expert", layout.expert, mesh.index("expert"))
        dim = 0 if name in _VOCABULARY else next((d for end, d in _TENSOR_CUTS.items() if name.endswith(end)), None)
        if layout.tensor > 1 and dim is not None:
            cuts.cut(model, name, dim, "tensor", layout.tensor, mesh.index("tensor"))
        elif layout.tensor > 1:
            cuts.summed.add(name)
    if layout.expert > 1:
        _send_to_experts(model, mesh)
    if layout.tensor > 1:
        _tensor_doors(model, mesh.group("tensor"))
    if layout.context > 1:
        (_pass_keys_round if ring else _exchange_heads)(model, mesh.group("context"))
    if layout.tensor * layout.context > 1:
        _cut_sequence(model, mesh, cuts, ring)
    return cuts


def _cut_sequence(model: Decoder, mesh: Mesh, cuts: Cuts, ring: bool) -> None:
    """The embedding makes this rank's block of the sequence; the loss takes it, with its labels."""
    layout, tensor = mesh.layout, None
    if layout.tensor > 1:
        tensor = mesh.group("tensor")
        part = cuts.parts.get("embedding.weight")
        if part is not None:
            model.embedding.forward = partial(_look_up, model.embedding, tensor, part.start[0])  # type: ignore[method-assign]
        head = cuts.parts.get("output.weight", part)
        if head is not None:
            model.cross_entropy.cut = VocabularyCut(tensor, head.start[0], head.shape[0])
    context, index = layout.context, mesh.index("context")

    def mine(x_BL: Tensor) -> Tensor:
        if ring and context > 1:
            return own_pieces(x_BL, index, context, SEQUENCE)
        return x_BL.chunk(context, SEQUENCE)[index].contiguous() if context > 1 else x_BL

    def before_embedding(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (mine(inputs[0]),)

    def before_loss(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_BLD, weight_VD, labels_BL, weights_BL = inputs
        if tensor is not None:
            hidden_BLD = gather_for_shares(hidden_BLD, tensor, SEQUENCE)
        return hidden_BLD, weight_VD, mine(labels_BL), mine(weights_BL)

    if model.embedding is not None:
        model.embedding.register_forward_pre_hook(before_embedding)
    model.cross_entropy.register_forward_pre_hook(before_loss)
    sequence = mesh.group("context", "tensor")

    def count_all(module: nn.Module, inputs: tuple[Tensor, ...], count_BE: Tensor) -> Tensor:
        total_BE = count_BE.clone()
        dist.all_reduce(total_BE, group=sequence)
        return total_BE

    for module in model.modules():
        if isinstance(module, Router):
            module.sequence_counts.register_forward_hook(count_all)


def _look_up(embedding: nn.Embedding, group: ProcessGroup, start: int, tokens_BL: Tensor) -> Tensor:
    """Rows of the tokens that are held here, zeros for the others, summed to blocks of the sequence."""
    local_BL = tokens_BL - start
    elsewhere_BL = (local_BL < 0) | (local_BL >= embedding.weight.shape[0])
    x_BLD = F.embedding(local_BL.masked_fill(elsewhere_BL, 0), embedding.weight)
    return sum_to_blocks(x_BLD.masked_fill(elsewhere_BL[..., None], 0.0), group, SEQUENCE)


def _tensor_doors(model: Decoder, group: ProcessGroup) -> None:
    def gather(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return gather_for_shares(inputs[0], group, SEQUENCE), *inputs[1:]

    def sum_up(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return sum_to_blocks(output[0], group, SEQUENCE), *output[1:]
        return sum_to_blocks(output, group, SEQUENCE)

    def own_tokens(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The router looks at this rank's tokens only, and tells the others what it chose."""
        return (inputs[0].chunk(dist.get_world_size(group), SEQUENCE)[dist.get_rank(group)],)

    def tell(module: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        weight_BLk, chosen_BLk, auxiliary = output
        return (
            gather_for_shares(weight_BLk, group, SEQUENCE),
            gather_for_shares(chosen_BLk, group, SEQUENCE),
            auxiliary,
        )

    for layer in model.layers:
        for part in (layer.attention, layer.ffn):
            assert isinstance(part, Attention | FeedForward | MixtureOfExperts)
            part.register_forward_pre_hook(gather)
            part.register_forward_hook(sum_up)
        if isinstance(layer.ffn, MixtureOfExperts):
            layer.ffn.router.register_forward_pre_hook(own_tokens)
            layer.ffn.router.register_forward_hook(tell)


def _exchange_heads(model: Decoder, group: ProcessGroup) -> None:
    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        query, key, value, context = inputs
        return *(sequence_to_heads(x, group) for x in (query, key, value)), context

    def after(module: nn.Module, inputs: tuple[Any, ...], attended_BLHK: Tensor) -> Tensor:
        return heads_to_sequence(attended_BLHK, group)

    for module in model.modules():
        if isinstance(module, CoreAttention):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


def _pass_keys_round(model: Decoder, group: ProcessGroup) -> None:
    model.masks_documents = False  # a mask would be as large as the whole sequence squared
    attend = torch.compiler.disable(attend_in_ring)  # not where it is defined, which would import the compiler
    for module in model.modules():
        if isinstance(module, CoreAttention):
            module.forward = partial(attend, module, group)  # type: ignore[method-assign]


def _send_to_experts(model: Decoder, mesh: Mesh) -> None:
    for module in model.modules():
        if isinstance(module, ExpertStack):
            module.forward = partial(  # type: ignore[method-assign]
                _through_experts, module, module.forward, mesh.group("expert"), mesh.layout.expert
            )


def _through_experts(
    module: ExpertStack, compute: Any, group: ProcessGroup, ranks: int, x_PD: Tensor, count_E: Tensor
) -> Tensor:
    """Rows, sorted by expert, to the ranks of their experts, through them, and back."""
    sent_RE = count_E.view(ranks, -1)
    received_RE = torch.empty_like(sent_RE)
    dist.all_to_all_single(received_RE, sent_RE, group=group)
    inputs, outputs = _lengths(sent_RE), _lengths(received_RE)
    arrived_PD = exchange_rows(x_PD, group, inputs, outputs)
    # They arrive by rank and then by expert; the experts want them by expert.
    held_E = torch.arange(received_RE.shape[1], device=x_PD.device)
    expert_P = held_E.repeat(ranks).repeat_interleave(received_RE.flatten(), output_size=sum(outputs))
    order_P = expert_P.argsort(stable=True)
    y_PD = compute(arrived_PD[order_P], received_RE.sum(0))
    returned_PD = torch.empty_like(y_PD).index_copy(0, order_P, y_PD)
    return exchange_rows(returned_PD, group, outputs, inputs)


def _lengths(count_RE: Tensor) -> list[int]:
    """Rows per rank; the host must know them to post the exchange."""
    lengths: list[int] = count_RE.sum(1).tolist()
    return lengths
