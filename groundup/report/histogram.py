"""How a statistic is spread over the documents, as inline SVG, with the limits that rules set."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from groundup.report import figures

_WIDTH, _HEIGHT = 400.0, 90.0


def histogram(edges: Sequence[float], counts: Sequence[int], limits: Sequence[dict[str, Any]], *, title: str) -> str:
    """Bars between `edges`; what a limit (rule, min, max) drops is in another colour, the limit a line."""
    low, high, most = edges[0], edges[-1], max([1, *counts])
    lowest = max((limit["min"] for limit in limits if limit["min"] is not None), default=None)
    highest = min((limit["max"] for limit in limits if limit["max"] is not None), default=None)

    def x(value: float) -> float:
        return _WIDTH * (value - low) / (high - low)

    bars = []
    for begin, end, count in zip(edges, edges[1:], counts, strict=False):
        middle = (begin + end) / 2
        falls = (lowest is not None and middle < lowest) or (highest is not None and middle > highest)
        height = _HEIGHT * count / most
        # A bin with anything in it is seen.
        height = max(height, 1.0) if count else 0.0
        bars.append(
            f'<rect class="c{1 if falls else 0}" x="{x(begin):.1f}" y="{_HEIGHT - height:.1f}" '
            f'width="{max(0.5, x(end) - x(begin) - 0.5):.1f}" height="{height:.1f}">'
            f"<title>{figures.plain(begin)} to {figures.plain(end)}: {figures.whole(count)}</title></rect>"
        )
    lines = [
        f'<line class="limit" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="0" y2="{_HEIGHT}"/>'
        for value in dict.fromkeys(v for limit in limits for v in (limit["min"], limit["max"]) if v is not None)
    ]
    words = "; ".join(_words(limit) for limit in limits)
    return (
        f'<figure class="histogram"><figcaption><b>{escape(title)}</b><small>{escape(words)}</small></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(title)}">{"".join(bars)}'
        f'{"".join(lines)}</svg><div class="ends"><span>{figures.plain(low)}</span><span>{figures.plain(high)}</span>'
        "</div></figure>"
    )


def _words(limit: dict[str, Any]) -> str:
    ends = [f"at least {figures.plain(limit['min'])}"] if limit["min"] is not None else []
    ends += [f"at most {figures.plain(limit['max'])}"] if limit["max"] is not None else []
    return f"{limit['rule']}: {' and '.join(ends)}"
