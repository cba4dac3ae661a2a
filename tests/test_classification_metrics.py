"""Metrics of a classifier against scikit-learn's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.evaluate import classification
from groundup.evaluate.classification import confusion, cross_entropy, full_metrics, roc_auc, roc_points, scores


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_scores_are_scikit_learns(classes: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    true, predicted = random.integers(0, classes, rows), random.integers(0, classes, rows)
    matrix = confusion(predicted, true, classes)
    assert (matrix == reference.confusion_matrix(true, predicted, labels=range(classes))).all()
    found = scores(matrix)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    for average in ("weighted", "macro"):
        wanted = reference.f1_score(true, predicted, average=average, zero_division=0)
        assert found[f"f1_{average}"] == pytest.approx(wanted)
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        true, predicted, labels=range(classes), zero_division=0
    )
    for name, wanted in (("precision", precision), ("recall", recall), ("f1", f1), ("rows", support)):
        np.testing.assert_allclose(found[name], wanted)


@settings(deadline=None)
@given(st.integers(2, 200), st.integers(0, 2**32 - 1), st.booleans())
def test_area_under_the_curve_is_scikit_learns_with_and_without_ties(rows: int, seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    positive, score = random.random(rows) < 0.4, random.random(rows)
    if ties:
        score = score.round(1)
    if positive.all() or not positive.any():
        assert roc_auc(score, positive) is None
        return
    assert roc_auc(score, positive) == pytest.approx(reference.roc_auc_score(positive, score))
    points = np.array(roc_points(score, positive))
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    assert (np.diff(points, axis=0) >= 0).all()


def portions(logits: Any, labels: Any) -> list[tuple[Any, Any]]:
    """In uneven pieces."""
    ends = [0, 7, 100, 101, len(labels)]
    return [(logits[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]


def test_curves_of_many_rows_are_of_each_kth(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    labels = random.integers(0, 4, 3000)
    logits = random.normal(size=(3000, 4)) + 2 * np.eye(4)[labels]
    whole = full_metrics(portions(logits, labels), 3000, [0, 1, 2, 3])
    monkeypatch.setattr(classification, "_ROC_SCORES", 4 * 1000)
    found = full_metrics(portions(logits, labels), 3000, [0, 1, 2, 3])
    third = full_metrics([(logits[::3], labels[::3])], 1000, [0, 1, 2, 3])
    assert (whole["roc_rows"], found["roc_rows"], found["rows"]) == (3000, 1000, 3000)
    assert found["roc"] == third["roc"]
    assert {**found, "roc": 0, "roc_auc": 0, "roc_rows": 0} == {**whole, "roc": 0, "roc_auc": 0, "roc_rows": 0}
    assert found["roc_auc"] == pytest.approx(whole["roc_auc"], abs=0.02)


def test_loss_and_report_of_several_classes() -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 4, 300)
    logits = (random.normal(size=(300, 4)) + 2 * np.eye(4)[labels]).astype(np.float32)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert cross_entropy(logits, labels) == pytest.approx(reference.log_loss(labels, probability), rel=1e-5)
    found = full_metrics(portions(logits, labels), 300, ["a", "b", "c", "d"])
    wanted = reference.roc_auc_score(labels, probability, multi_class="ovr", average="macro")
    assert found["roc_auc"] == pytest.approx(wanted, abs=1e-6)
    assert found["rows"] == 300
    assert [row["label"] for row in found["per_class"]] == ["a", "b", "c", "d"]
    assert len(found["roc"]) == 4


def test_two_classes_have_one_curve() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.5], [0.4, 0.5]], np.float32)
    found = full_metrics([(logits, np.array([0, 1, 1, 0]))], 4, [False, True])
    assert [curve["label"] for curve in found["roc"]] == [True]
    assert found["confusion"] == [[1, 1], [1, 1]]
    assert found["roc_auc"] == pytest.approx(0.75)


def test_no_curve_where_a_class_has_no_rows() -> None:
    found = full_metrics([(np.zeros((3, 3), np.float32), np.array([0, 0, 1]))], 3, ["x", "y", "z"])
    assert [curve["label"] for curve in found["roc"]] == ["x", "y"]
    assert found["per_class"][2] == {"label": "z", "precision": 0.0, "recall": 0.0, "f1": 0.0, "rows": 0}
