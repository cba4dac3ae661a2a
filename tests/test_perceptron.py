"""The classifier's model: shapes, initial values, dropout."""

from __future__ import annotations

import math

import pytest
import torch

from groundup.models.dropout import Dropout, row_numbers, rows_key
from groundup.models.perceptron import build_perceptron
from groundup.plan.perceptron import flops_per_row, parameter_shapes
from groundup.recipe.table import Classifier

CPU = torch.device("cpu")


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_planned_shapes_are_the_models(norm: str, activation: str) -> None:
    model = Classifier.model_validate({"widths": [12, 7], "norm": norm, "activation": activation})
    perceptron = build_perceptron(model, 5, 3, 0, CPU)
    assert dict(parameter_shapes(model, 5, 3)) == {n: tuple(p.shape) for n, p in perceptron.named_parameters()}
    assert perceptron(torch.randn(4, 5)).shape == (4, 3)


def test_the_textbooks_model() -> None:
    model = Classifier(widths=[512, 256], dropout=0.5)
    shapes = dict(parameter_shapes(model, 1000, 10))
    assert sum(math.prod(s) for s in shapes.values()) == 646_410
    matrices = 1000 * 512 + 512 * 256 + 256 * 10
    assert flops_per_row(model, 1000, 10) == 6 * matrices - 2 * 1000 * 512


def test_no_hidden_layer_is_a_linear_classifier() -> None:
    model = Classifier(widths=[])
    perceptron = build_perceptron(model, 6, 2, 1, CPU)
    x = torch.randn(3, 6)
    torch.testing.assert_close(perceptron(x), x @ perceptron.output.weight.T + perceptron.output.bias)
    assert flops_per_row(model, 6, 2) == 4 * 12


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    model = Classifier(widths=[64, 64])
    first, second = build_perceptron(model, 64, 4, 7, CPU), build_perceptron(model, 64, 4, 7, CPU)
    other = build_perceptron(model, 64, 4, 8, CPU)
    assert torch.equal(first.layers[0].linear.weight, second.layers[0].linear.weight)
    assert not torch.equal(first.layers[0].linear.weight, other.layers[0].linear.weight)
    assert not torch.equal(first.layers[0].linear.weight, first.layers[1].linear.weight)
    linear = build_perceptron(Classifier(widths=[2000]), 500, 4, 7, CPU).layers[0].linear
    for values in (linear.weight, linear.bias):  # uniform within 1 / sqrt(inputs)
        assert values.abs().max().item() == pytest.approx(1 / math.sqrt(500), rel=0.01)
        assert values.std().item() == pytest.approx(1 / math.sqrt(3 * 500), rel=0.03)


def test_dropout_keeps_its_share_evenly_over_rows_features_and_places() -> None:
    keep = Dropout(0.3, 256, 1, "layers.0").keep(row_numbers(rows_key(1), torch.arange(4096))).float()
    assert keep.mean().item() == pytest.approx(0.7, abs=0.002)
    assert keep.mean(0).sub(0.7).abs().max().item() < 0.04
    assert keep.mean(1).sub(0.7).abs().max().item() < 0.17
    centred = (keep - 0.7) / math.sqrt(0.21)
    # Neighbouring rows, features and far-off pairs are uncorrelated: |r| of a million products is about 0.001.
    for left, right in (
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
        (centred[1024:], centred[:-1024]),
        (centred[:, 128:], centred[:, :-128]),
    ):
        assert (left * right).mean().abs().item() < 0.006
    rectangle = centred[1:, 1:] * centred[:-1, :-1] * centred[1:, :-1] * centred[:-1, 1:]
    assert rectangle.mean().abs().item() < 0.006


def test_a_rows_mask_depends_on_its_place_and_nothing_else() -> None:
    model = Classifier(widths=[32], dropout=0.5)
    perceptron = build_perceptron(model, 8, 3, 0, CPU).train()
    x, places = torch.randn(10, 8), torch.arange(100, 110)
    whole = perceptron(x, places)
    torch.testing.assert_close(whole[3:7], perceptron(x[3:7], places[3:7]))
    assert not torch.allclose(whole, perceptron(x, places + 10))
    other = build_perceptron(model, 8, 3, 1, CPU).layers[0].dropout
    rows = row_numbers(rows_key(0), places)
    assert not torch.equal(perceptron.layers[0].dropout.keep(rows), other.keep(rows))


def test_dropout_keeps_the_mean_in_training_and_is_off_in_evaluation() -> None:
    perceptron = build_perceptron(Classifier(widths=[16], dropout=0.5), 8, 3, 0, CPU)
    x = torch.randn(5, 8)
    perceptron.eval()
    quiet = perceptron(x)
    assert torch.equal(quiet, perceptron(x, torch.arange(5)))
    dropout = perceptron.layers[0].dropout.train()
    mean = dropout(torch.ones(20_000, 16), row_numbers(rows_key(0), torch.arange(20_000))).mean().item()
    assert mean == pytest.approx(1.0, abs=0.01)
