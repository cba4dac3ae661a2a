"""What follows from a classifier's evaluation: the area under each ROC curve, and which classes are taken for which."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.report.figures import number, records

CONFUSED_PAIRS = 20


def judge(evaluation: dict[str, Any] | None) -> dict[str, Any] | None:
    """`{"labels", "auc": [{"label", "auc"}], "confused": [{"true", "predicted", "rows", "share"}]}`.

    `confused`: the 20 commonest mistakes; `share` is of the true class's rows. None without an evaluation.
    """
    if evaluation is None:
        return None
    labels, matrix = confusion(evaluation)
    curves = records(evaluation.get("roc"))
    pairs = []
    if matrix is not None:
        rows = matrix.sum(axis=1)
        mistakes = matrix.copy()
        np.fill_diagonal(mistakes, 0)
        for at in np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSED_PAIRS]:
            true, predicted = divmod(int(at), len(labels))
            wrong = int(mistakes[true, predicted])
            if wrong:
                pair = {"true": labels[true], "predicted": labels[predicted]}
                pairs.append({**pair, "rows": wrong, "share": wrong / float(rows[true])})
    return {
        "labels": labels,
        "auc": [{"label": curve.get("label"), "auc": _area(curve)} for curve in curves],
        "confused": pairs,
    }


def confusion(evaluation: dict[str, Any]) -> tuple[list[Any], NDArray[np.int64] | None]:
    """The labels and the counts [true class, predicted class]; no counts where the file holds no such matrix."""
    found, rows = evaluation.get("labels"), evaluation.get("confusion")
    labels = found if isinstance(found, list) else []
    if not labels or not isinstance(rows, list) or len(rows) != len(labels):
        return labels, None
    counts = [[number(value) for value in row] if isinstance(row, list) else [] for row in rows]
    if any(len(row) != len(labels) or any(value is None or value < 0 for value in row) for row in counts):
        return labels, None
    return labels, np.array(counts, dtype=np.int64)


def points(curve: dict[str, Any]) -> list[tuple[float, float]]:
    """(false positive rate, true positive rate) of one ROC curve; what is no pair of numbers is left out."""
    found = curve.get("points")
    pairs = [
        (number(pair[0]), number(pair[1]))
        for pair in (found if isinstance(found, list) else [])
        if isinstance(pair, list) and len(pair) == 2
    ]
    return sorted((x, y) for x, y in pairs if x is not None and y is not None)


def _area(curve: dict[str, Any]) -> float | None:
    """The one in the file, which is exact; or that under the points, by the trapezoidal rule."""
    known, path = number(curve.get("auc")), points(curve)
    if known is not None or len(path) < 2:
        return known
    return sum((x - before) * (y + low) / 2 for (before, low), (x, y) in pairwise(path))
