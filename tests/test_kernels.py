"""Operations of our own against torch's, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from groundup.models import blockwise
from groundup.models.attention import Attention, Context
from groundup.models.blockwise import rotary_attention
from groundup.models.feedforward import FeedForward
from groundup.models.norm import RmsNorm
from groundup.models.rope import rotary_table, rotate
from groundup.recipe.model import Model


@pytest.mark.parametrize(("heads", "groups", "length"), [(6, 6, 64), (6, 2, 130), (4, 1, 200), (3, 3, 1)])
def test_blockwise_attention_is_torchs(heads: int, groups: int, length: int) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(2, length, n, 16, generator=generator).requires_grad_() for n in (heads, groups, groups)]
    angle = torch.randn(length, 8, generator=generator)
    cos, sin = angle.cos(), angle.sin()
    upstream = torch.randn(2, length, heads, 16, generator=generator)

    def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key = rotate(query, cos, sin).transpose(1, 2), rotate(key, cos, sin).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, key, value.transpose(1, 2), is_causal=True, enable_gqa=True)
        return out.transpose(1, 2)

    results = []
    for attention in (reference, lambda q, k, v: rotary_attention(q, k, v, cos, sin)):
        out = attention(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, upstream)))
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_blockwise_attention_of_bf16_is_computed_in_fp32_and_given_back_in_bf16() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(2, 70, n, 16, generator=generator).bfloat16().requires_grad_() for n in (4, 2, 2)]
    exact = [x.detach().float().requires_grad_() for x in inputs]
    angle = torch.randn(70, 8, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        out = rotary_attention(*inputs, angle.cos(), angle.sin())
    upstream = torch.randn(out.shape, generator=generator).bfloat16()
    got = [out, *torch.autograd.grad(out, inputs, upstream)]
    wanted_out = rotary_attention(*exact, angle.cos(), angle.sin())
    wanted = [wanted_out, *torch.autograd.grad(wanted_out, exact, upstream.float())]
    torch.testing.assert_close(got[0], wanted[0].bfloat16(), rtol=0, atol=0)
    # What is kept for the backward pass is rounded: about as far off as the gradients' own format takes them.
    for found, expected in zip(got[1:], wanted[1:], strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).norm() < 0.008 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blockwise_attention_is_a_well_behaved_operator(dtype: torch.dtype) -> None:
    """Shapes without data, strides, aliasing and autograd registration, as torch.compile relies on them."""
    tensors = [torch.randn(2, 70, n, 8, dtype=dtype, requires_grad=True) for n in (4, 2, 2)]
    angle = torch.randn(70, 4)
    torch.library.opcheck(torch.ops.groundup.rotary_attention.default, (*tensors, angle.cos(), angle.sin()))


def test_short_and_long_sequences_take_the_path_meant_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(hidden_size=32, heads=4, kv_heads=2, context_length=96)
    attention, x_BLD = Attention(model, 0), torch.randn(2, 96, 32)
    context = Context(*rotary_table(model, 96), None)
    short = attention(x_BLD, context)
    monkeypatch.setattr("groundup.models.attention.BEST_UP_TO", 95)
    calls: list[int] = []
    original = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or original(*a, **k))
    long = attention(x_BLD, context)
    assert calls == [1]
    torch.testing.assert_close(long, short, rtol=1e-4, atol=1e-6)
    assert blockwise.BEST_UP_TO == 1024


@pytest.mark.parametrize("shape", [(5, 24), (2, 7, 24), (2, 3, 4, 24)])
def test_rms_norm_is_torchs(shape: tuple[int, ...]) -> None:
    norm = RmsNorm(24, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x, upstream = torch.randn(shape, requires_grad=True), torch.randn(shape)
    ours = torch.autograd.grad(norm(x), [x, norm.weight], upstream)
    theirs = torch.autograd.grad(F.rms_norm(x, (24,), norm.weight, 1e-3), [x, norm.weight], upstream)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (24,), norm.weight, 1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_layers_are_the_plain_formula_and_keep_two_tensors_of_the_inner_width(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    layer = FeedForward(24, 40)
    x = torch.randn(3, 11, 24, requires_grad=True)
    upstream = torch.randn(3, 11, 24).to(dtype)
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    def plain(x: torch.Tensor) -> torch.Tensor:
        return layer.down(F.silu(layer.gate(x)) * layer.up(x))

    parameters = [x, *layer.parameters()]
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = layer(x)
        wanted_out = plain(x)
    assert out.dtype == dtype
    assert len({tensor.data_ptr() for tensor in kept if tensor.shape[-1] == 40 and tensor.numel() == 33 * 40}) == 2
    got = [out, *torch.autograd.grad(out, parameters, upstream)]
    wanted = [wanted_out, *torch.autograd.grad(wanted_out, parameters, upstream)]
    for found, expected in zip(got, wanted, strict=True):
        assert found.dtype == expected.dtype
        assert (found - expected).norm() < (1e-6 if dtype == torch.float32 else 0.01) * expected.norm()
