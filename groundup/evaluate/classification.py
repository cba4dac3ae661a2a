"""Metrics of a classifier: accuracy, precision, recall, F1, confusion, ROC. numpy only.

Definitions as in Sokolova and Lapalme, "A systematic analysis of performance measures for classification tasks"
(2009); a class that is never predicted, or has no rows, counts with 0 as in scikit-learn. ROC-AUC is the
Mann-Whitney statistic with ties counted half; over several classes the mean of each against the rest.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Portions = Iterable[tuple[Floats, Integers]]  # logits [N, C] and class ids [N], some rows at a time
_ROC_POINTS = 101
_ROC_SCORES = 1 << 24  # rows times classes that are held


def cross_entropy(logits_NC: Floats, labels_N: Integers) -> float:
    """Mean over the rows, nats."""
    logits = logits_NC.astype(np.float64)
    largest_N1 = logits.max(1, keepdims=True)
    partition_N = np.log(np.exp(logits - largest_N1).sum(1)) + largest_N1[:, 0]
    return float((partition_N - logits[np.arange(len(labels_N)), labels_N]).mean())


def probabilities(logits_NC: Floats) -> NDArray[np.float64]:
    """softmax"""
    shifted_NC = np.exp(logits_NC.astype(np.float64) - logits_NC.max(1, keepdims=True))
    probability_NC: NDArray[np.float64] = shifted_NC / shifted_NC.sum(1, keepdims=True)
    return probability_NC


def confusion(predicted_N: Integers, labels_N: Integers, classes: int) -> NDArray[np.int64]:
    """Rows: the true class, columns: the predicted one."""
    counts = np.bincount(labels_N * classes + predicted_N, minlength=classes * classes)
    return counts.reshape(classes, classes)


def _ratio(above: Floats | Integers, below: Floats | Integers) -> NDArray[np.float64]:
    out = np.zeros(len(above))
    np.divide(above, below, out=out, where=below > 0)
    return out


def scores(matrix_CC: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy and F1, and precision, recall, F1 and rows by class, from a confusion matrix."""
    right_C, true_C, predicted_C = np.diag(matrix_CC), matrix_CC.sum(1), matrix_CC.sum(0)
    precision_C, recall_C = _ratio(right_C, predicted_C), _ratio(right_C, true_C)
    f1_C = _ratio(2.0 * right_C, true_C + predicted_C)
    seen_C = (true_C > 0) | (predicted_C > 0)
    return {
        "accuracy": float(right_C.sum() / max(1, true_C.sum())),
        "f1_weighted": float((f1_C * true_C).sum() / max(1, true_C.sum())),
        "f1_macro": float(f1_C[seen_C].mean()) if seen_C.any() else 0.0,
        "precision": precision_C.tolist(),
        "recall": recall_C.tolist(),
        "f1": f1_C.tolist(),
        "rows": true_C.tolist(),
    }


def roc_auc(score_N: Floats, positive_N: NDArray[np.bool_]) -> float | None:
    """Probability that a positive row scores above a negative one; None where either kind is missing."""
    positives = int(positive_N.sum())
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank_N = (last - (counts - 1) / 2.0)[inverse]
    return float((rank_N[positive_N].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def roc_points(score_N: Floats, positive_N: NDArray[np.bool_]) -> list[list[float]]:
    """[false positive rate, true positive rate] from (0, 0) to (1, 1), thinned to about a hundred."""
    order = np.argsort(-score_N, kind="stable")
    hits, sorted_scores = positive_N[order], score_N[order]
    true, false = np.cumsum(hits), np.cumsum(~hits)
    # A threshold lies only between different scores.
    ends = np.flatnonzero(np.append(np.diff(sorted_scores) != 0, True))
    if len(ends) > _ROC_POINTS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, _ROC_POINTS).round().astype(int))]
    rates = np.stack([false[ends] / max(1, false[-1]), true[ends] / max(1, true[-1])], axis=1)
    return [[0.0, 0.0], *rates.round(6).tolist()]


class Tally:
    """What is counted of the rows, portion by portion: C x C counts and a sum, however many rows there are."""

    def __init__(self, classes: int) -> None:
        self.matrix_CC = np.zeros((classes, classes), np.int64)
        self._loss, self.rows = 0.0, 0

    def add(self, logits_NC: Floats, labels_N: Integers) -> None:
        self.matrix_CC += confusion(logits_NC.argmax(1), labels_N, len(self.matrix_CC))
        self._loss += cross_entropy(logits_NC, labels_N) * len(labels_N)
        self.rows += len(labels_N)

    @property
    def loss(self) -> float:
        """Mean over the rows, nats."""
        return self._loss / self.rows


def validation_metrics(portions: Portions, classes: int) -> dict[str, float]:
    """The few that are followed during training."""
    tally = Tally(classes)
    for logits_NC, labels_N in portions:
        tally.add(logits_NC, labels_N)
    found = scores(tally.matrix_CC)
    return {"loss": tally.loss, **{name: found[name] for name in ("accuracy", "f1_weighted", "f1_macro")}}


def full_metrics(portions: Portions, rows: int, labels: list[Any]) -> dict[str, Any]:
    """All of them. `rows`: how many there will be; `labels`: the classes' names by id. ROC takes the scores of all rows
    at once: where they are many, of each k-th row; `roc_rows` says of how many."""
    classes = len(labels)
    tally = Tally(classes)
    step = -(-rows * classes // _ROC_SCORES)
    kept: list[tuple[Floats, Integers]] = []
    for logits_NC, labels_N in portions:
        chosen = slice(-tally.rows % step, None, step)
        tally.add(logits_NC, labels_N)
        kept.append((probabilities(logits_NC[chosen]), labels_N[chosen]))
    probability_NC, labels_N = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    found = scores(tally.matrix_CC)
    # Of two classes the second is the one asked about; the first one's curve is its mirror image.
    asked = [1] if classes == 2 else range(classes)
    areas = {c: roc_auc(probability_NC[:, c], labels_N == c) for c in asked}
    known = [area for area in areas.values() if area is not None]
    by_class = zip(labels, found["precision"], found["recall"], found["f1"], found["rows"], strict=True)
    return {
        "loss": tally.loss,
        "accuracy": found["accuracy"],
        "f1_weighted": found["f1_weighted"],
        "f1_macro": found["f1_macro"],
        "roc_auc": float(np.mean(known)) if known else None,
        "roc_rows": len(labels_N),
        "rows": tally.rows,
        "classes": classes,
        "labels": labels,
        "per_class": [
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "rows": rows}
            for label, precision, recall, f1, rows in by_class
        ],
        "confusion": tally.matrix_CC.tolist(),
        "roc": [
            {"label": labels[c], "auc": area, "points": roc_points(probability_NC[:, c], labels_N == c)}
            for c, area in areas.items()
            if area is not None
        ],
    }
