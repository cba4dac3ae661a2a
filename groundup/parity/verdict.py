"""Whether a row's figures are good: how far rounding alone may take a layout from the single process."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from groundup.parity.case import Case

# Largest relative difference that passes, by figure.
TOLERANCES = {
    "loss_difference": 1e-5,
    "displayed_loss_difference": 1e-5,
    "grad_norm_difference": 1e-5,
    "worst_gradient_difference": 1e-4,
    "worst_weight_difference": 1e-4,
    "initial_weight_difference": 1e-6,
    "free_loss_difference": 1e-4,
}
# A router's near tie that rounding turns sends a token elsewhere.
EXPERTS = {"loss_difference": 1e-4, "displayed_loss_difference": 1e-4, "grad_norm_difference": 1e-4}


def tolerances(case: Case) -> dict[str, float]:
    """Of the figures that the row has."""
    limits = {**TOLERANCES, **EXPERTS} if case.kind == "experts" else dict(TOLERANCES)
    if not case.free:
        del limits["free_loss_difference"]
    return limits


def judge(case: Case, by_rank: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The row of a case: what it is, whether it passed, which figures failed, and the worst of all ranks' figures."""
    worst: dict[str, Any] = dict.fromkeys(TOLERANCES)
    for figures in by_rank:
        for name in TOLERANCES:
            value, before = figures.get(name), worst[name]
            if value is not None and (before is None or value > before or math.isnan(value)):
                worst[name] = value
                worst[f"{name}_in"] = figures.get(f"{name}_in")
    # What is no number, or was not told, has not passed.
    failed = [name for name, limit in tolerances(case).items() if worst[name] is None or not worst[name] <= limit]
    return {**case.as_dict(), "passed": not failed, "failed": failed, **worst}


def broken(case: Case, why: str) -> dict[str, Any]:
    """The row of a case that gave no figures."""
    return {**case.as_dict(), "passed": False, "failed": ["no figures"], **dict.fromkeys(TOLERANCES), "error": why}
