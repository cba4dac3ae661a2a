"""Losses, optimizers, schedules, precision, clipping."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from groundup.errors import UserError
from groundup.models.decoder import build_decoder
from groundup.optim import losses
from groundup.optim.gradients import clip_
from groundup.optim.losses import linear_cross_entropy
from groundup.optim.muon import Muon, orthogonalise
from groundup.optim.optimizers import build_optimizers, is_hidden_matrix
from groundup.optim.schedules import build_schedule
from groundup.parallel.model import ParallelModel
from groundup.recipe.model import Experts, Model
from groundup.recipe.optim import Optim
from groundup.recipe.quantities import Duration, Pace


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """Hidden states, weight, labels and weights, over several chunks of 16 tokens with an incomplete last one."""
    monkeypatch.setitem(losses._CHUNK_BYTES, "cpu", 16 * 4 * 37)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(53, 24, generator=generator, requires_grad=True)
    weight = torch.randn(37, 24, generator=generator, requires_grad=True)
    labels = torch.randint(0, 37, (53,), generator=generator)
    counted = torch.randint(0, 3, (53,), generator=generator).float() / 2
    return hidden, weight, labels, counted


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.02)])
def test_chunked_loss_is_torchs_in_value_and_gradient(
    problem: tuple[torch.Tensor, ...], smoothing: float, z_loss: float
) -> None:
    hidden, weight, labels, counted = problem
    loss, shown = linear_cross_entropy(hidden, weight, labels, counted, label_smoothing=smoothing, z_loss=z_loss)
    (loss / 7).backward()
    ours = loss.detach(), hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    logits = hidden @ weight.t()
    each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    each = each + z_loss * logits.logsumexp(-1).square()
    reference = (each * counted).sum()
    (reference / 7).backward()
    for got, wanted in zip(ours, (reference.detach(), hidden.grad, weight.grad), strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-5, atol=2e-5)
    plain = (F.cross_entropy(logits, labels, reduction="none") * counted).sum()
    torch.testing.assert_close(shown, plain, rtol=2e-5, atol=2e-5)
    assert not shown.requires_grad


def test_chunked_loss_survives_large_logits_and_needs_no_gradient(problem: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, labels, counted = problem
    with torch.no_grad():
        loss, _ = linear_cross_entropy(hidden * 1000, weight, labels, counted)
        reference = (F.cross_entropy(hidden * 1000 @ weight.t(), labels, reduction="none") * counted).sum()
    torch.testing.assert_close(loss, reference)


def test_chunked_loss_never_holds_all_logits() -> None:
    """4,096 tokens x 20,000 entries are 328 MB of logits; no tensor of the op may come near that."""
    hidden, weight = torch.randn(4096, 8, requires_grad=True), torch.randn(20_000, 8, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.nbytes)
            return out

    with Watch():
        linear_cross_entropy(hidden, weight, torch.zeros(4096, dtype=torch.long), torch.ones(4096))[0].backward()
    assert largest < 40e6


def test_bf16_loss_is_near(problem: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, labels, counted = problem
    exact, _ = linear_cross_entropy(hidden, weight, labels, counted)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = linear_cross_entropy(hidden, weight, labels, counted)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0.5)
    rounded.backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.float32


def test_orthogonalise_brings_singular_values_near_one() -> None:
    for shape in ((16, 48), (48, 16), (3, 24, 40)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_muon_on_a_stack_is_muon_on_each() -> None:
    stack = torch.nn.Parameter(torch.randn(3, 8, 6))
    singles = [torch.nn.Parameter(m.clone()) for m in stack.detach()]
    gradient = torch.randn(3, 8, 6)
    optimizers = [Muon(p, lr=0.1, momentum=0.9, weight_decay=0.1) for p in ([stack], singles)]
    for _ in range(3):
        stack.grad = gradient.clone()
        for single, part in zip(singles, gradient, strict=True):
            single.grad = part.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stack.detach(), torch.stack([s.detach() for s in singles]))


def test_no_decay_on_norms_and_embeddings_and_muon_on_hidden_matrices_only() -> None:
    model = build_decoder(Model(hidden_size=32, layers=1, heads=2, experts=Experts(count=2)), 64, 0, "cpu")
    names = {id(p): n for n, p in model.named_parameters()}
    for kind in ("sgd", "adam", "adamw", "muon"):
        optimizers = build_optimizers(model.named_parameters(), Optim(optimizer=kind, weight_decay=0.3))
        seen = []
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = names[id(parameter)]
                    seen.append(name)
                    plain = "norm" in name or "embedding" in name
                    assert group["weight_decay"] == (0.0 if plain else 0.3), name
        assert sorted(seen) == sorted(names.values()), "every parameter in exactly one group"
    hidden = {n for n, p in model.named_parameters() if is_hidden_matrix(n, p)}
    assert hidden == {
        *(f"layers.0.attention.{n}.weight" for n in ("query", "key", "value", "output")),
        *(f"layers.0.ffn.experts.{n}" for n in ("gate", "up", "down")),
    }


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "muon"])
def test_each_optimizer_learns(kind: str) -> None:
    model = build_decoder(Model(hidden_size=32, layers=1, heads=2, context_length=16), 16, 0, "cpu")
    lr = {"sgd": 0.3}.get(kind, 0.01)
    optimizers = build_optimizers(model.named_parameters(), Optim(optimizer=kind, lr=lr, weight_decay=0.0))
    tokens = torch.arange(16)[None].repeat(4, 1)
    labels = (tokens + 1) % 16
    found = []
    for _ in range(30):
        hidden = model(tokens).x_BLD.flatten(0, 1)
        loss = linear_cross_entropy(hidden, model.output_weight, labels.flatten(), torch.ones(64))[0] / 64
        loss.backward()
        found.append(float(loss.detach()))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert found[-1] < 0.5 * found[0]


def test_adamw_is_the_textbooks() -> None:
    """One step of AdamW (Loshchilov and Hutter, arXiv:1711.05101, algorithm 2) worked out by hand."""
    model = build_decoder(Model(hidden_size=8, layers=1, heads=1), 8, 0, "cpu")
    optim = Optim(lr=0.1, weight_decay=0.5, betas=[0.9, 0.99], eps=1e-8)
    (optimizer,) = build_optimizers(model.named_parameters(), optim)
    weight = model.layers[0].attention.query.weight
    before, gradient = weight.detach().clone(), torch.randn_like(weight)
    weight.grad = gradient.clone()
    optimizer.step()
    moment, square = 0.1 * gradient / (1 - 0.9), 0.01 * gradient**2 / (1 - 0.99)
    expected = before * (1 - 0.1 * 0.5) - 0.1 * moment / (square.sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected)


def _lrs(steps: int = 100, **optim: object) -> list[float]:
    schedule = build_schedule(Optim.model_validate({"lr": 1.0, **optim}), steps, Pace(4, 40, 16))
    return [schedule.lr(4 * step) for step in range(steps)]


def test_schedules() -> None:
    constant = _lrs(schedule="constant", warmup="10 steps")
    assert constant[10:] == [1.0] * 90
    assert all(a < b for a, b in itertools.pairwise(constant[:11]))
    assert 0 < constant[0] < 0.2
    linear = _lrs(schedule="linear", final_lr_fraction=0.0)
    assert linear[50] == pytest.approx(0.5)
    cosine = _lrs(schedule="cosine", final_lr_fraction=0.2)
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.6)
    assert cosine[99] == pytest.approx(0.2, abs=1e-3)
    stable = _lrs(schedule="warmup-stable-decay", decay="20 steps", final_lr_fraction=0.0)
    assert stable[:81] == [1.0] * 81
    assert stable[90] == pytest.approx(0.5)
    step = _lrs(schedule="step", step_every="3 epochs", step_factor=0.1)  # an epoch is 40 samples, 10 steps
    assert step[29] == 1.0
    assert step[30] == pytest.approx(0.1)
    assert step[60] == pytest.approx(0.01)


def test_schedule_is_a_function_of_samples_not_of_ranks() -> None:
    wide = build_schedule(Optim(lr=1.0, schedule="cosine"), 50, Pace(8, 40, 16))
    narrow = build_schedule(Optim(lr=1.0, schedule="cosine"), 100, Pace(4, 40, 16))
    assert all(math.isclose(wide.lr(s), narrow.lr(s)) for s in range(0, 400, 8))


def test_clipping_is_torchs() -> None:
    parameters = [torch.nn.Parameter(torch.randn(n, 3)) for n in (2, 5, 7)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 3
    ours = [p.grad.clone() for p in parameters if p.grad is not None]
    module = torch.nn.ParameterList(parameters)
    norm = ParallelModel([module]).gradient_norm(torch.zeros(()))
    clip_(ours, norm, 1.5)
    reference = torch.nn.utils.clip_grad_norm_(parameters, 1.5)
    torch.testing.assert_close(norm, reference)
    for a, b in zip(ours, parameters, strict=True):
        torch.testing.assert_close(a, b.grad)


def test_durations_of_the_schedule_can_be_tokens_and_epochs() -> None:
    optim = Optim(warmup=Duration(640, "tokens"), schedule="warmup-stable-decay", decay=Duration(2, "epochs"))
    schedule = build_schedule(optim, 100, Pace(4, 40, 16))
    assert (schedule.warmup, schedule.decay) == (40, 80)


def test_a_warmup_that_turns_out_longer_than_the_run_is_refused() -> None:
    """How many steps an epoch has is known once the data is prepared."""
    with pytest.raises(UserError, match="3 epochs are 30 steps, and the whole run has 20") as refused:
        build_schedule(Optim(warmup=Duration(3, "epochs")), 20, Pace(4, 40, 16))
    assert (refused.value.where, refused.value.expected) == ("optim.warmup", "at most 20 steps")
