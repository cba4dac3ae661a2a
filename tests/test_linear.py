"""bf16 on a CPU without instructions for it: products in fp32, everything between them in bf16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.models.decoder import Decoder, build_decoder
from groundup.models.linear import Linear
from groundup.models.norm import RmsNorm
from groundup.models.sampling import generate
from groundup.optim import precision
from groundup.optim.losses import linear_cross_entropy
from groundup.recipe.model import Experts, Model

VOCABULARY = 50
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmv", "mv", "grouped_mm", "scaled_dot_product", "linear", "matmul")
OURS = ("product", "product_of_rows")
MODELS = {
    "dense": Model(hidden_size=32, heads=4, kv_heads=2, layers=2, ffn_size=48, context_length=64),
    "tied, norms": Model(hidden_size=32, heads=2, layers=1, context_length=64, tied_embeddings=True, qk_norm=True),
    "experts": Model(
        hidden_size=32,
        heads=2,
        layers=1,
        context_length=64,
        experts=Experts(count=4, per_token=2, ffn_size=24, shared_ffn_size=16),
    ),
}


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CPU_HAS_BF16", False)


class Products(TorchDispatchMode):
    """Notes the formats of what is multiplied."""

    def __init__(self) -> None:
        self.formats: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        formats = {x.dtype for x in args if isinstance(x, Tensor) and x.is_floating_point()}
        if name in OURS:  # whose last argument says in what they multiply
            formats = {args[-1].dtype if isinstance(args[-1], Tensor) else args[-1]}
        if name in OURS or name.strip("_").startswith(PRODUCTS):
            self.formats.setdefault(name, set()).update(formats)
        return func(*args, **(kwargs or {}))


def _rounded(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(7,), (2, 700)])
def test_a_linear_layer_is_torchs_on_the_same_numbers(no_bf16: None, rows: tuple[int, ...], bias: bool) -> None:
    layer = Linear(24, 40, bias=bias)
    x, upstream = _rounded((*rows, 24), 1).requires_grad_(), _rounded((*rows, 40), 2)
    wanted_of = [
        x.detach().float().requires_grad_(),
        *(p.detach().clone().requires_grad_() for p in layer.parameters()),
    ]
    wanted = torch.nn.functional.linear(*wanted_of)
    with Products() as products:
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x)
        found.backward(upstream)
    assert set().union(*products.formats.values()) == {torch.float32}
    assert found.dtype == torch.bfloat16
    # A bias, and its gradient, are rounded, as by autocast where there are instructions.
    torch.testing.assert_close(found, wanted.bfloat16(), rtol=2**-7, atol=1e-2 if bias else 1e-3)
    wanted.backward(upstream.float())
    assert x.grad is not None
    assert wanted_of[0].grad is not None
    torch.testing.assert_close(x.grad, wanted_of[0].grad.bfloat16(), rtol=2**-7, atol=1e-6)
    for parameter, expected in zip(layer.parameters(), wanted_of[1:], strict=True):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(
            parameter.grad, expected.grad, rtol=1e-4 if parameter.ndim == 2 else 2**-7, atol=1e-3
        )


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
def test_no_product_of_a_model_runs_in_bf16(
    no_bf16: None, monkeypatch: pytest.MonkeyPatch, kind: str, documents: bool, blocks: bool
) -> None:
    if not blocks:
        monkeypatch.setattr("groundup.models.attention.BEST_UP_TO", 8)
    decoder = build_decoder(MODELS[kind], VOCABULARY, 0, "cpu")
    with Products() as training:
        loss, gradient = _loss_and_gradient(decoder, torch.bfloat16, documents)
    with torch.autocast("cpu", torch.bfloat16), Products() as generating:
        generate(decoder, [[1, 2, 3]], max_new_tokens=3)
    for products in (training, generating):
        assert "product" in products.formats
        assert set().union(*products.formats.values()) == {torch.float32}, products.formats
    exact, exact_gradient = _loss_and_gradient(decoder, torch.float32, documents)
    assert loss == pytest.approx(exact, rel=1e-3)
    assert (gradient - exact_gradient).norm() < 0.03 * exact_gradient.norm()


def _loss_and_gradient(decoder: Decoder, dtype: torch.dtype, documents: bool) -> tuple[float, Tensor]:
    tokens_BL = torch.randint(VOCABULARY, (2, 33), generator=torch.Generator().manual_seed(1))
    documents_BL = (torch.arange(32) // 20).expand(2, -1) if documents else None
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        hidden = decoder(tokens_BL[:, :-1], documents_BL=documents_BL).x_BLD
        loss, _ = linear_cross_entropy(
            hidden.flatten(0, 1), decoder.output_weight, tokens_BL[:, 1:].flatten(), torch.ones(64)
        )
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_layer_keeps_is_in_bf16(no_bf16: None, compiled: bool) -> None:
    """All but what enters a norm, which is the residual stream."""
    decoder = build_decoder(MODELS["dense"], VOCABULARY, 0, "cpu")
    own = {p.untyped_storage().data_ptr() for p in (*decoder.parameters(), *decoder.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own and tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    if compiled:
        for layer in decoder.layers:
            layer.compile()
    tokens_BL = torch.randint(VOCABULARY, (2, 64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
        x_BLD = decoder(tokens_BL).x_BLD
    wide = [tensor for tensor in kept.values() if tensor.numel() >= 2 * 64 * 32]
    assert {tensor.numel() for tensor in wide if tensor.dtype == torch.float32} == {2 * 64 * 32}
    # Compiled, one of a layer's two is made again from what attention gave.
    assert sum(tensor.dtype == torch.float32 for tensor in wide) <= 2 * len(decoder.layers) + 1
    x_BLD.float().sum().backward()
    assert all(p.grad is not None for name, p in decoder.named_parameters() if name != "output.weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_portions_are_well_behaved_operators(dtype: torch.dtype) -> None:
    """Shapes without data, strides and aliasing, as torch.compile relies on them."""
    x, grad, matrix = torch.randn(9, 5, dtype=dtype), torch.randn(9, 7, dtype=dtype), torch.randn(7, 5)
    torch.library.opcheck(torch.ops.groundup.product.default, (x, matrix.t()))
    torch.library.opcheck(torch.ops.groundup.product_of_rows.default, (grad, x, torch.float32))


def test_no_rows_are_as_many_rows(no_bf16: None) -> None:
    layer, x = Linear(24, 40), torch.randn(0, 3, 24, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.shape == (0, 3, 40)
    y.sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


def test_a_norm_gives_autocasts_format_in_any_number_of_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = RmsNorm(24, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x, upstream = torch.randn(3, 50, 24, requires_grad=True), torch.randn(3, 50, 24).bfloat16()
    wanted = torch.nn.functional.rms_norm(x, (24,), norm.weight, 1e-3)
    expected = torch.autograd.grad(wanted, [x, norm.weight], upstream.float())
    for portion in (4 * 24, 7 * 4 * 24, 2 << 20):
        monkeypatch.setattr("groundup.models.norm._PORTION_BYTES", portion)
        with torch.autocast("cpu", torch.bfloat16):
            found = norm(x)
        torch.testing.assert_close(found, wanted.bfloat16(), rtol=2**-7, atol=0)
        for gradient, its in zip(torch.autograd.grad(found, [x, norm.weight], upstream), expected, strict=True):
            torch.testing.assert_close(gradient, its, rtol=1e-4, atol=1e-4)
