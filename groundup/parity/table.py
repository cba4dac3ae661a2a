"""Rows of the matrix as lines of text."""

from __future__ import annotations

from typing import Any

# Heading and key of each figure, in the order of the columns.
FIGURES = {
    "loss": "loss_difference",
    "displayed": "displayed_loss_difference",
    "norm": "grad_norm_difference",
    "gradient": "worst_gradient_difference",
    "weight": "worst_weight_difference",
    "free run": "free_loss_difference",
}
SETTINGS = {
    "model": 12,
    "layout": 37,
    "schedule": 16,
    "accumulation": 5,
    "checkpointing": 9,
    "optimizer": 5,
}
_HEADINGS = {"accumulation": "micro", "checkpointing": "recompute", "optimizer": "optim"}


def figure(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def line(row: dict[str, Any]) -> str:
    """One row. A figure that failed is marked, with the tensor it is of."""
    cells = [f"{row[key] or '':<{width}}" for key, width in SETTINGS.items()]
    cells += [f"{figure(row[key]) + ('!' if key in row['failed'] else ''):<9}" for key in FIGURES.values()]
    wrong = [f"{row[f'{key}_in']} " for key in row["failed"] if row.get(f"{key}_in")]
    return f"{'ok' if row['passed'] else 'FAILED':<6} {' '.join(cells)} {''.join(wrong)}".rstrip()


def table(rows: list[dict[str, Any]]) -> str:
    """All rows under their headings."""
    headings = [f"{_HEADINGS.get(key, key):<{width}}" for key, width in SETTINGS.items()]
    headings += [f"{heading:<9}" for heading in FIGURES]
    return "\n".join([f"{'':<6} {' '.join(headings)}".rstrip(), *map(line, rows)])
