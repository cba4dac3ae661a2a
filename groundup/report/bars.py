"""Bars and a funnel as inline SVG, each with its numbers beside it as text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from groundup.report import figures

_MIDDLE = 500.0  # of the funnel's width


def bar_chart(bars: Sequence[tuple[str, float]], *, title: str, unit: str = "", color: int = 0) -> str:
    """Horizontal bars from zero, each with its label, its value and its share of the sum.

    With the unit `%` the values are shares themselves, 0.55 for 55 %.
    """
    largest, total = max((v for _, v in bars), default=0), sum(v for _, v in bars)
    shares = ["" if unit == "%" else figures.percent(v / total if total else 0) for _, v in bars]
    rows = "".join(
        f'<span class="label">{escape(label)}</span>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="c{color}" width="{100 * value / largest if largest else 0:.2f}" height="10"/></svg>'
        f'<span class="value">{_amount(value, unit)} <small>{share}</small></span>'
        for (label, value), share in zip(bars, shares, strict=True)
    )
    head = f"<figcaption><b>{escape(title)}</b></figcaption>"
    return f'<figure class="bars">{head}<div class="rows">{rows}</div></figure>'


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str], *, title: str, note: str = "", wide: bool = False
) -> str:
    """Horizontal bars from zero, one a row, cut into `parts`, with the row's sum beside it.

    `note` is a line of text beside the title; `wide` takes the page's whole width.
    """
    largest = max((sum(values) for _, values in rows), default=0)
    lines = []
    for label, values in rows:
        at, rects = 0.0, []
        for color, value in enumerate(values):
            width = 100 * value / largest if largest else 0.0
            rects.append(f'<rect class="c{color}" x="{at:.2f}" width="{width:.2f}" height="10"/>')
            at += width
        lines.append(
            f'<span class="label">{escape(figures.short(label, 32))}</span>'
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(rects)}</svg>'
            f'<span class="value">{figures.whole(sum(values))}</span>'
        )
    keys = "".join(f'<span class="key bar c{color}"><i></i>{escape(part)}</span>' for color, part in enumerate(parts))
    head = f"<b>{escape(title)}</b>" + (f"<small>{escape(note)}</small>" if note else "")
    return (
        f'<figure class="bars{" wide" if wide else ""}">'
        f'<figcaption>{head}<span class="legend">{keys}</span></figcaption>'
        f'<div class="rows">{"".join(lines)}</div></figure>'
    )


def funnel(stages: Sequence[tuple[str, float]], *, title: str, unit: str = "", color: int = 0) -> str:
    """What is left after each stage: bands as wide as the values, joined, with the share of the first one."""
    largest = max((v for _, v in stages), default=0)
    first = stages[0][1] if stages else 0
    halves = [_MIDDLE * v / largest if largest else 0.0 for _, v in stages]
    shapes, rows = [], []
    for k, ((name, value), half) in enumerate(zip(stages, halves, strict=True)):
        top, bottom, left, right = 100 * k + 8, 100 * k + 72, _MIDDLE - half, _MIDDLE + half
        shapes.append(f'<path class="band" d="M{left:.1f} {top}H{right:.1f}V{bottom}H{left:.1f}Z"/>')
        if k + 1 < len(stages):
            lower = halves[k + 1]
            shapes.append(
                f'<path class="join" d="M{left:.1f} {bottom}H{right:.1f}L{_MIDDLE + lower:.1f} {top + 100}'
                f'H{_MIDDLE - lower:.1f}Z"/>'
            )
        share = figures.percent(value / first) if first else figures.UNKNOWN
        rows.append(
            f'<span class="label" style="grid-row:{k + 1}">{escape(name)}</span>'
            f'<span class="value" style="grid-row:{k + 1}">{_amount(value, unit)}</span>'
            f'<span class="share" style="grid-row:{k + 1}">{share}</span>'
        )
    tall = max(len(stages), 1)
    return (
        f'<figure class="funnel"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<div class="rows" style="grid-template-rows:repeat({tall},3rem)">'
        f'<svg class="c{color}" viewBox="0 0 {2 * _MIDDLE:.0f} {100 * tall}" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(shapes)}</svg>{"".join(rows)}</div></figure>'
    )


def _amount(value: float, unit: str) -> str:
    if unit == "%":
        return figures.percent(value)
    return escape(figures.quantity(value, unit) if unit == "B" else f"{figures.count(value)} {unit}".strip())
