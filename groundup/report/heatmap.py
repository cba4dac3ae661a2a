"""A confusion matrix as a heat map: an SVG of cells, labels and numbers as text over it, and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.report.figures import count, percent, short, whole
from groundup.report.markup import fold, table

MAX_CLASSES = 30
WIDE = 12  # more classes than this need the page's whole width
_CELL = 10
_LETTERS = 50  # that fit below the cells side by side


def heat_map(labels: Sequence[Any], counts: NDArray[np.int64], *, title: str) -> str:
    """A `<figure>`; `counts` [true class, predicted class].

    A cell's strength is its share of the true class's rows, by its square root, so that rare mistakes are
    seen too. Right answers and mistakes have different colours.
    """
    classes = len(labels)
    rows = np.maximum(counts.sum(axis=1), 1)
    names = [str(label) for label in labels]
    cells, numbers = [], []
    for true in range(classes):
        for predicted in range(classes):
            value = int(counts[true, predicted])
            if not value:
                numbers.append("<span></span>")
                continue
            share = value / float(rows[true])
            strength = math.sqrt(share)
            words = f"{names[true]} taken for {names[predicted]}: {whole(value)}, {percent(share)}"
            cells.append(
                f'<rect class="c{int(true != predicted)}" x="{predicted * _CELL}" y="{true * _CELL}" '
                f'width="{_CELL}" height="{_CELL}" fill-opacity="{strength:.3f}"/>'
            )
            kind = ' class="strong"' if strength > 0.6 else ""
            numbers.append(f'<span{kind} title="{escape(words)}">{count(value)}</span>')
    side = classes * _CELL
    lines = "".join(f"M{k * _CELL} 0V{side}M0 {k * _CELL}H{side}" for k in range(classes + 1))
    kind = "heat wide dense" if classes > WIDE else "heat"
    turned = " turned" if max(map(len, names)) * classes > _LETTERS else ""
    right = int(np.trace(counts))
    words = f"{title}: {right} of {int(counts.sum())} rows on the diagonal; all numbers are in the table below"
    return (
        f'<figure class="{kind}" style="--n:{classes}"><figcaption><b>{escape(title)}</b>'
        f'<span class="legend"><span class="key bar c0"><i></i>right</span>'
        f'<span class="key bar c1"><i></i>mistaken</span></span></figcaption>'
        f'<div class="matrix"><div class="axis down">true class</div>'
        f'<div class="names down" aria-hidden="true">{_names(names)}</div>'
        f'<div class="cells"><svg viewBox="0 0 {side} {side}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(words)}"><path class="grid" d="{lines}"/>{"".join(cells)}</svg>'
        f'<div class="numbers" aria-hidden="true">{"".join(numbers)}</div></div>'
        f'<div class="names across{turned}" aria-hidden="true">{_names(names)}</div>'
        f'<div class="axis across">predicted class</div></div>{_table(names, counts)}</figure>'
    )


def _names(names: Sequence[str]) -> str:
    return "".join(f'<span title="{escape(name)}"><i>{escape(short(name, 18))}</i></span>' for name in names)


def _table(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    rows = [(name, *(whole(value) for value in line)) for name, line in zip(names, counts.tolist(), strict=True)]
    return fold("The numbers as a table", table(["true \\ predicted", *names], rows))
