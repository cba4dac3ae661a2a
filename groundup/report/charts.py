"""Line charts and scatter plots as inline SVG. No library, and nothing fetched.

The SVG is stretched to the room there is, with strokes of constant width; all text is HTML laid over it in
percent, so that it keeps its size from a phone to a printout. `report.js` reads `data-chart` for the
readout under the pointer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from groundup.report import figures
from groundup.report.scales import Floats, Scale, fit, thin

MAX_POINTS = 2000
MAX_DOTS = 100  # more of them run together into a bar; the line alone shows more then
_WIDTH, _HEIGHT = 1000.0, 400.0

Style = Literal["thin", "thick", "points", "dots", "step"]


@dataclass(frozen=True)
class Series:
    """A named curve. `x` ascends; a `y` of None or not finite is a gap; `color` is 0 to 9.

    `points` are dots on a line, `dots` are dots without one; a `step` holds its value until the next x.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    style: Style = "thick"
    color: int = 0


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    y_zero: bool = False,
    y_percent: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    note: str = "",
    wide: bool = False,
    square: bool = False,
    x_names: Sequence[str] = (),
) -> str:
    """A `<figure>` with the curves of `series`, each thinned to at most 2000 points.

    `y_zero` starts the y axis at zero; `y_percent` writes 0.55 as 55 %; `marks` are vertical lines at an x,
    with a word; `note` is a line of text beside the title; `wide` takes the page's whole width; `square` is as
    high as its neighbour; `x_names` stand at the places 0, 1, ... of the x axis in place of numbers. On a log
    axis what is not positive is a gap. A chart with nothing to draw says so.
    """
    data = [_finite_x(s) for s in series]
    y_all = np.concatenate([y for _, y in data] or [np.empty(0)])
    x_all = np.concatenate([x[np.isfinite(y)] for x, y in data] or [np.empty(0)])
    scattered = all(one.style == "dots" for one in series)
    x_scale = fit(x_all, log=log_x, pad=0.04 if scattered else 0.0)
    y_scale = fit(y_all, log=log_y, zero=y_zero, pad=0.05)
    if x_names and x_scale:
        x_scale = Scale(-0.5, len(x_names) - 0.5)
    kind = "chart" + (" wide" if wide else "") + (" square" if square else "")
    head = f"<b>{escape(title)}</b>" + (f"<small>{escape(note)}</small>" if note else "")
    if x_scale is None or y_scale is None:
        empty = '<p class="none">Nothing to draw.</p>'
        return f'<figure class="{kind}"><figcaption>{head}</figcaption>{empty}</figure>'
    paths, readout, legend = [], [], []
    for one, (x, y) in zip(series, data, strict=True):
        across, up = x_scale.position(x), y_scale.position(y)
        up = np.where(np.isnan(across), np.nan, up)
        kept = _thinned(across, up)
        across, up = across[kept], up[kept]
        if np.isnan(up).all():
            continue
        classes = f"c{one.color} {one.style}"
        if one.style != "dots":
            paths.append(f'<path class="{classes}" d="{_line(across, up, step=one.style == "step")}"/>')
        if one.style == "dots" or (one.style == "points" and np.count_nonzero(~np.isnan(up)) <= MAX_DOTS):
            paths.append(f'<path class="c{one.color} {one.style} dots" d="{_dots(across, up)}"/>')
        legend.append(f'<span class="key {classes}"><i></i>{escape(one.name)}</span>')
        shown = np.where(np.isnan(up), np.nan, y[kept])
        readout.append({"n": one.name, "c": one.color, "x": _short(x[kept]), "y": _short(shown)})
    unit = f'<div class="unit">{escape(y_label)}</div>' if y_label else ""
    x_ticks, y_ticks = (x_scale.ticks(9), y_scale.ticks(6)) if wide else (x_scale.ticks(5), y_scale.ticks(4))
    if not log_x and (x_all == x_all.round()).all():  # there is no half of a step or of a trial
        x_ticks = [tick for tick in x_ticks if tick == round(tick)] or x_ticks
    words = [figures.count(tick, 6) for tick in x_ticks]
    if x_names:
        x_ticks, words = list(range(len(x_names))), [escape(figures.short(name, 16)) for name in x_names]
    across_ticks, up_ticks = _places(x_scale, x_ticks), _places(y_scale, y_ticks)
    axes = "".join(_tick("x", place, word) for place, word in zip(across_ticks, words, strict=True))
    for place, tick in zip(up_ticks, y_ticks, strict=True):
        axes += _tick("y", place, f"{100 * tick:.6g} %" if y_percent else figures.count(tick, 6))
    for at, word in marks:
        left = float(x_scale.position(np.array([at], dtype=np.float64))[0])
        if 0 <= left <= 1:
            axes += f'<span class="mark" style="left:{left:.2%}"><em>{escape(word)}</em></span>'
    keys = "".join(legend) if len(legend) > 1 else ""
    scales = {"x": _as_list(x_scale), "y": _as_list(y_scale), "pc": y_percent, "xl": x_label, "s": readout}
    scales |= {"xn": list(x_names), "near": scattered}
    return (
        f'<figure class="{kind}" data-chart="{escape(json.dumps(scales, separators=(",", ":")))}">'
        f'<figcaption>{head}<span class="legend">{keys}</span></figcaption>{unit}<div class="plot">'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(_summary(title, series))}">{_grid(across_ticks, up_ticks)}'
        f"{''.join(paths)}</svg>{axes}</div>"
        f'<div class="x-label">{escape(x_label)}</div></figure>'
    )


def _finite_x(series: Series) -> tuple[Floats, Floats]:
    x, y = (np.array([np.nan if v is None else v for v in values], dtype=np.float64) for values in (series.x, series.y))
    known = np.isfinite(x)
    return x[known], np.where(np.isfinite(y[known]), y[known], np.nan)


def _thinned(across: Floats, up: Floats) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    placed = np.flatnonzero(~np.isnan(across))
    return placed[thin(across[placed], up[placed], MAX_POINTS)]


def _points(across: Floats, up: Floats) -> list[str]:
    """Coordinates in the SVG; an empty text for a gap."""
    pairs = zip((across * _WIDTH).tolist(), ((1 - up) * _HEIGHT).tolist(), strict=True)
    return [f"{x:.1f} {y:.1f}" if np.isfinite(y) else "" for x, y in pairs]


def _line(across: Floats, up: Floats, *, step: bool = False) -> str:
    """A path that is broken at gaps; a lone point becomes a dot (a line of no length with a round cap)."""
    parts, run = [], 0
    for point in [*_points(across, up), ""]:
        if point and run and step:
            x, y = point.split()
            parts.append(f"H{x}V{y}")
            run += 1
        elif point:
            parts.append(("M" if run == 0 else "L") + point)
            run += 1
        else:
            if run == 1:
                parts.append("h0")
            run = 0
    return "".join(parts)


def _dots(across: Floats, up: Floats) -> str:
    return "".join(f"M{point}h0" for point in _points(across, up) if point)


def _short(values: Floats) -> list[float | None]:
    """Six significant digits are more than the readout shows; None for a gap."""
    rounded = (float(f"{v:.6g}") if np.isfinite(v) else None for v in values.tolist())
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in rounded]


def _as_list(scale: Scale) -> list[float]:
    return [scale.low, scale.high, int(scale.log)]


def _places(scale: Scale, ticks: Sequence[float]) -> list[float]:
    found: list[float] = scale.position(np.array(ticks, dtype=np.float64)).tolist()
    return found


def _grid(across: Sequence[float], up: Sequence[float]) -> str:
    lines = [f"M{x * _WIDTH:.1f} 0V{_HEIGHT:.0f}" for x in across]
    lines += [f"M0 {(1 - y) * _HEIGHT:.1f}H{_WIDTH:.0f}" for y in up]
    return f'<path class="grid" d="{"".join(lines)}"/>'


def _tick(axis: Literal["x", "y"], place: float, words: str) -> str:
    edge = f"left:{place:.2%}" if axis == "x" else f"top:{1 - place:.2%}"
    return f'<span class="tick {axis}" style="{edge}">{words}</span>'


def _summary(title: str, series: Sequence[Series]) -> str:
    """The chart in words, for those who can't see it."""
    parts = []
    for one in series:
        known = [y for y in one.y if figures.number(y) is not None]
        if known:
            parts.append(f"{one.name} from {figures.plain(known[0])} to {figures.plain(known[-1])}")
    return f"{title}: " + "; ".join(parts)
