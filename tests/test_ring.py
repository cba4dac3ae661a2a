"""Ring attention beside torch's attention over the whole sequence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import distributed
from torch.distributed import ProcessGroup

from groundup.models.attention import Context, CoreAttention
from groundup.models.rope import rotate
from groundup.parallel import ring
from groundup.parallel.ring import attend_in_ring, own_pieces, pieces_of
from groundup.parity.pool import Pool

B, L, H, G, K = 2, 24, 4, 2, 8


def _whole(documents: bool) -> tuple[list[torch.Tensor], Context]:
    """Queries, keys, values and the gradient of what is attended, the same on all ranks."""
    random = torch.Generator().manual_seed(5)
    tensors = [torch.randn(B, L, heads, K, generator=random) for heads in (H, G, G, H)]
    angles = torch.rand(L, K // 2, generator=random)
    starts = torch.rand(B, L, generator=random) < 0.2
    return tensors, Context(angles.cos(), angles.sin(), documents_BL=starts.cumsum(1) if documents else None)


def _by_torch(tensors: list[torch.Tensor], context: Context) -> list[torch.Tensor]:
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    mask = torch.ones(L, L, dtype=torch.bool).tril().expand(B, 1, L, L)
    if context.documents_BL is not None:
        mask = mask & (context.documents_BL[:, None, :, None] == context.documents_BL[:, None, None, :])
    turned = (rotate(query, context.cos, context.sin), rotate(key, context.cos, context.sin), value)
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in turned), attn_mask=mask, enable_gqa=True)
    out = out.transpose(1, 2)
    out.backward(tensors[3])
    assert query.grad is not None
    assert key.grad is not None
    assert value.grad is not None
    return [out.detach(), query.grad, key.grad, value.grad]


def _difference(documents: bool, block: int, bf16: bool = False) -> float:
    """The largest of any element of this rank's output and gradients. bf16: under autocast, which it is not to heed."""
    ring._BLOCK = block
    group = distributed.group.WORLD
    assert isinstance(group, ProcessGroup)
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    tensors, context = _whole(documents)
    expected = _by_torch(tensors, context)
    query, key, value, grad = (own_pieces(x, rank, ranks, 1) for x in tensors)
    held = [x.clone().requires_grad_() for x in (query, key, value)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = attend_in_ring(CoreAttention(0, grouped=True), group, *held, context)
    out.backward(grad)
    found = [out.detach(), *(x.grad for x in held)]
    return max(float((a - own_pieces(b, rank, ranks, 1)).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ring_attention_is_attention(ranks: int) -> None:
    with Pool(ranks) as pool:
        for documents in (False, True):
            for block in (512, 3):
                assert max(pool.run(ranks, _difference, documents, block)) < 1e-5, (documents, block)
        assert max(pool.run(ranks, _difference, True, 512, True)) < 1e-5


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_pieces_are_all_once_and_their_causal_work_is_equal(ranks: int) -> None:
    held = [pieces_of(rank, ranks) for rank in range(ranks)]
    assert sorted(n for pair in held for n in pair) == list(range(2 * ranks))
    assert len({sum(pair) for pair in held}) == 1
