"""Mixture of experts: routing, balancing and grouped products, against a plain loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groundup.models.experts import MixtureOfExperts
from groundup.random import fill_normal_, stream_key
from groundup.recipe.model import Experts
from tests.shapes import MODELS, random_decoder, random_tokens


def mixture(seed: int = 3, **changes: object) -> MixtureOfExperts:
    layer = MixtureOfExperts(32, Experts(**{"count": 6, "per_token": 2, "ffn_size": 24} | changes))  # type: ignore[arg-type]
    named = sorted(layer.named_parameters(), key=lambda item: not item[0].startswith("experts."))
    for number, (_, parameter) in enumerate(named):
        fill_normal_(parameter.data, stream_key(seed, str(number)), 0.3)
    return layer


def inputs(rows: int = 3, length: int = 20, seed: int = 4) -> Tensor:
    x_BLD = torch.empty(rows, length, 32)
    fill_normal_(x_BLD, stream_key(seed, "x"), 1.0)
    return x_BLD


def naive(layer: MixtureOfExperts, x_BLD: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Token by token and expert by expert; the auxiliary loss by its formula; tokens per expert."""
    experts, auxiliary, counts = layer.router.experts, torch.zeros(()), [0] * layer.router.experts.count
    out_BLD = []
    for x_LD in x_BLD:
        probability_LE = (x_LD @ layer.router.weight.T).softmax(-1)
        sent = torch.zeros(experts.count)
        for x_D, probability_E in zip(x_LD, probability_LE, strict=True):
            score_E = probability_E + layer.router.bias_E if experts.balance == "bias" else probability_E
            chosen = score_E.argsort(descending=True)[: experts.per_token].tolist()
            total = sum(probability_E[e] for e in chosen) if experts.renormalise else 1.0
            y_D = torch.zeros(32)
            for e in chosen:
                counts[e] += 1
                sent[e] += 1
                hidden_F = F.silu(layer.experts.gate[e] @ x_D) * (layer.experts.up[e] @ x_D)
                y_D = y_D + probability_E[e] / total * (layer.experts.down[e] @ hidden_F)
            if layer.shared is not None:
                y_D = y_D + layer.shared(x_D)
            out_BLD.append(y_D)
        share_E = sent / (len(x_LD) * experts.per_token)
        if experts.balance == "auxiliary":
            balance = experts.count * (share_E * probability_LE.mean(0)).sum()
            auxiliary = auxiliary + experts.auxiliary_weight * len(x_LD) * balance
    return torch.stack(out_BLD).view_as(x_BLD), auxiliary, counts


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"renormalise": False, "balance": "none"},
        {"per_token": 1, "shared_ffn_size": 16},
        {"per_token": 6},
        {"balance": "bias", "per_token": 3},
    ],
)
def test_a_mixture_equals_a_loop_over_experts(changes: dict[str, object]) -> None:
    layer = mixture(**changes)
    if layer.router.experts.balance == "bias":
        layer.router.bias_E.copy_(torch.tensor([0.2, -0.1, 0.0, 0.3, 0.0, -9.0]))  # nothing goes to the last
    ours, theirs = inputs().requires_grad_(), inputs().requires_grad_()
    direction_BLD = inputs(seed=8)
    y_BLD, auxiliary = layer(ours)
    ((y_BLD * direction_BLD).sum() + auxiliary).backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    expected_BLD, expected_auxiliary, counts = naive(layer, theirs)
    ((expected_BLD * direction_BLD).sum() + expected_auxiliary).backward()
    torch.testing.assert_close(y_BLD, expected_BLD, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(auxiliary, expected_auxiliary)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    for ours_grad, parameter in zip(gradients, layer.parameters(), strict=True):
        torch.testing.assert_close(ours_grad, parameter.grad, atol=1e-4, rtol=1e-4)
    assert layer.router.load_E.tolist() == counts
    assert sum(counts) == 60 * layer.router.experts.per_token  # no token is dropped
    if layer.router.experts.balance == "bias":
        assert counts[-1] == 0
        assert gradients[1] is not None
        assert (gradients[1][-1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", [[0, 3, 0, 7], [10, 0, 0, 0], [0, 0, 0, 10], [0, 0, 0, 0]])
def test_grouped_products_where_an_expert_gets_nothing(counts: list[int], dtype: torch.dtype) -> None:
    """torch's grouped_mm, on which the mixture rests: an empty group has a gradient of exactly zero."""
    x_PD = torch.randn(sum(counts), 32, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    w_EFD = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    ends_E = torch.tensor(counts).cumsum(0).to(torch.int32)
    y_PF = F.grouped_mm(x_PD, w_EFD.transpose(1, 2), offs=ends_E)
    expected_PF = torch.cat([part @ w.T for part, w in zip(x_PD.split(counts), w_EFD, strict=True)])
    tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype is torch.float32 else {"atol": 0.1, "rtol": 0.02}
    torch.testing.assert_close(y_PF, expected_PF, **tolerance)
    gradients = torch.autograd.grad(y_PF.float().square().sum(), (x_PD, w_EFD))
    expected = torch.autograd.grad(expected_PF.float().square().sum(), (x_PD, w_EFD))
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance if dtype is torch.float32 else {"atol": 1, "rtol": 0.05})
    for count, gradient_FD in zip(counts, gradients[1], strict=True):
        assert count or (gradient_FD == 0).all()


def test_autocast_keeps_the_router_in_fp32() -> None:
    layer, x_BLD = mixture(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        y_BLD, auxiliary = layer(x_BLD)
        weight_BLk, chosen_BLk, _ = layer.router(x_BLD.bfloat16().float())
    exact_BLk, exact_chosen_BLk, _ = layer.router(x_BLD.bfloat16().float())
    assert torch.equal(weight_BLk, exact_BLk)
    assert torch.equal(chosen_BLk, exact_chosen_BLk)
    assert y_BLD.dtype == torch.bfloat16
    assert auxiliary.dtype == torch.float32
    torch.testing.assert_close(y_BLD.float(), layer(x_BLD)[0], atol=0.1, rtol=0.05)


def test_auxiliary_loss_is_a_sum_over_sequences() -> None:
    layer, x_BLD = mixture(), inputs(4)
    with torch.no_grad():
        whole, first, second = (layer(part)[1] for part in (x_BLD, x_BLD[:1], x_BLD[1:]))
        torch.testing.assert_close(whole, first + second)
        layer.router.weight.zero_()  # every expert equally likely: the least there can be
        least = layer(x_BLD)[1]
    torch.testing.assert_close(least, torch.tensor(0.01 * 80))
    assert whole > least


def test_auxiliary_loss_of_the_decoder_sums_its_layers() -> None:
    decoder, tokens_BL = random_decoder(MODELS["mixtral"]), random_tokens(4, 32)
    with torch.no_grad():
        whole, first, second = (decoder(part).auxiliary for part in (tokens_BL, tokens_BL[:2], tokens_BL[2:]))
    torch.testing.assert_close(whole, first + second)
    assert whole >= 2 * 0.01 * 128  # two layers
    assert random_decoder(MODELS["llama"])(tokens_BL).auxiliary is None


def test_bias_evens_out_the_load() -> None:
    layer = mixture(balance="bias", bias_update_rate=0.01)
    router, x_BLD = layer.router, inputs(8, 64) + 1.0  # a common direction makes routing skewed

    def load() -> Tensor:
        layer(x_BLD)
        return router.load_E.clone()

    before_E = load()
    router.update_bias(lambda load_E: load_E)
    assert router.load_E.sum() == 0
    torch.testing.assert_close(router.bias_E, 0.01 * torch.sign(before_E.mean() - before_E))
    for _ in range(100):
        load()
        router.update_bias(lambda load_E: load_E)
    after_E = load()
    assert before_E.max() > 1.5 * before_E.mean()
    assert after_E.max() < 1.15 * after_E.mean()
    layer.eval()
    assert torch.equal(load(), after_E)  # evaluation counts nothing


def test_bias_takes_part_in_the_choice_only() -> None:
    layer = mixture(balance="bias")
    x_BLD = inputs()
    layer.router.bias_E.fill_(5.0)  # the same for all: no other choice, and the weights don't see it
    weight_BLk, _, auxiliary = layer.router(x_BLD)
    torch.testing.assert_close(weight_BLk.sum(-1), torch.ones(3, 20))
    layer.router.bias_E.zero_()
    torch.testing.assert_close(layer.router(x_BLD)[0], weight_BLk)
    assert auxiliary == 0
