"""The charts: ticks are round and within the axis, thinning keeps the shape, gaps stay gaps."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.report import figures
from groundup.report.bars import bar_chart, funnel, stacked_bars
from groundup.report.charts import Series, line_chart
from groundup.report.heatmap import heat_map
from groundup.report.scales import Scale, smooth, thin

finite = st.floats(-1e6, 1e6)


def drawn(chart: str) -> list[dict[str, Any]]:
    """The series that the readout knows."""
    found = re.search(r'data-chart="([^"]*)"', chart)
    assert found
    series: list[dict[str, Any]] = json.loads(unescape(found[1]))["s"]
    return series


def paths(chart: str, name: str) -> list[str]:
    return re.findall(rf'<path class="{name}" d="([^"]*)"', chart)


@given(st.lists(st.one_of(finite, st.just(math.nan)), min_size=1, max_size=400), st.integers(8, 60))
def test_thinning_keeps_ends_extremes_and_gaps(values: list[float], limit: int) -> None:
    value = np.array(values)
    kept = thin(np.arange(len(value), dtype=np.float64), value, limit)
    assert len(kept) <= max(limit, 2)
    assert (np.diff(kept) > 0).all()
    assert {0, len(value) - 1} <= set(kept.tolist())
    if np.isfinite(value).any():
        assert np.nanmax(value[kept]) == np.nanmax(value)
        assert np.nanmin(value[kept]) == np.nanmin(value)
    assert np.isnan(value[kept]).any() == np.isnan(value).any()


@given(finite, st.floats(1e-6, 1e6), st.integers(3, 10))
def test_linear_ticks_are_round_even_and_inside(low: float, width: float, about: int) -> None:
    scale = Scale(low, low + width)
    ticks = scale.ticks(about)
    dust = 1e-9 * max(abs(low), width)
    assert 1 <= len(ticks) <= 2 * about + 1
    assert all(low - dust <= tick <= low + width + dust for tick in ticks)
    if len(ticks) > 2:
        gaps = np.diff(ticks)
        assert np.allclose(gaps, gaps[0], rtol=1e-3)
        assert f"{gaps[0]:.0e}"[0] in "125"


@given(st.floats(1e-8, 1e8), st.floats(1.05, 1e9), st.integers(3, 9))
def test_log_ticks_are_inside(low: float, factor: float, about: int) -> None:
    ticks = Scale(low, low * factor, log=True).ticks(about)
    assert 1 <= len(ticks) <= 3 * about
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)
    assert ticks == sorted(ticks)


def test_smoothing_follows_the_level_and_ignores_a_spike() -> None:
    value = np.where(np.arange(1000) % 2 == 0, 1.9, 2.1)
    value[500], value[700] = 1000.0, np.nan
    smoothed = smooth(value, np.arange(1000))
    assert math.isnan(smoothed[700])
    assert np.nanmax(np.abs(smoothed[100:] - 2.0)) < 0.11
    assert np.isfinite(smoothed[[699, 701]]).all()


def test_gap_breaks_the_line_and_a_lone_point_is_a_dot() -> None:
    chart = line_chart(
        [Series("a", [0, 1, 2, 3, 4, 5], [1.0, 2.0, None, 3.0, math.inf, 4.0])], title="t", x_label="step"
    )
    (path,) = paths(chart, "c0 thick")
    assert path.count("M") == 3
    assert path.count("h0") == 2
    assert "nan" not in chart.lower()
    assert "inf" not in chart.lower()
    assert drawn(chart)[0]["y"] == [1, 2, None, 3, None, 4]


def test_log_axis_leaves_out_what_is_not_positive() -> None:
    chart = line_chart([Series("a", [0, 1, 10], [5.0, 0.0, 2.0])], title="t", x_label="s", log_x=True, log_y=True)
    assert [y for y in drawn(chart)[0]["y"] if y is not None] == [2]


def test_curve_lies_where_its_values_are() -> None:
    chart = line_chart([Series("a", [0, 50, 100], [0.0, 10.0, 5.0])], title="t", x_label="step", y_zero=True)
    (path,) = paths(chart, "c0 thick")
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", path)[1:]]
    assert [x for x, _ in points] == [0.0, 500.0, 1000.0]
    top, bottom = points[1][1], points[0][1]
    assert bottom == 400.0
    assert 0 <= top < 40
    assert points[2][1] == pytest.approx((top + bottom) / 2, abs=0.2)


def test_million_points_are_thinned_with_their_extremes() -> None:
    y = np.sin(np.arange(1_000_000) / 1000)
    y[123_456], y[654_321] = 9.0, -9.0
    chart = line_chart([Series("a", range(1_000_000), y.tolist())], title="t", x_label="step")
    (series,) = drawn(chart)
    assert len(series["x"]) == len(series["y"]) <= 2000
    assert (max(series["y"]), min(series["y"])) == (9, -9)
    assert len(chart) < 100_000


def test_names_are_escaped_and_legend_needs_two_curves() -> None:
    hostile = '"><script>x</script>'
    two = [Series(hostile, [1, 2], [1.0, 2.0]), Series("b", [1, 2], [2.0, 1.0], "points", 1)]
    charts = [
        line_chart(two, title=hostile, x_label=hostile, y_label=hostile, note=hostile, marks=[(1.5, hostile)]),
        line_chart(two[:1], title="t", x_label="x"),
        bar_chart([(hostile, 1.0)], title=hostile, unit=hostile),
        stacked_bars([(hostile, [1.0])], [hostile], title=hostile, note=hostile),
        heat_map([hostile, "b"], np.array([[1, 2], [3, 4]]), title=hostile),
        funnel([(hostile, 2.0), ("b", 1.0)], title=hostile, unit=hostile),
    ]
    assert not any("<script" in chart for chart in charts)
    assert ['class="key' in chart for chart in charts[:2]] == [True, False]
    assert drawn(charts[0])[0]["n"] == hostile


def test_dots_have_no_line_and_a_step_holds_its_value() -> None:
    three = [0, 5, 10]
    chart = line_chart(
        [Series("best", three, [4.0, 4.0, 2.0], "step", 2), Series("tried", three, [4.0, 5.0, 2.0], "dots")],
        title="t",
        x_label="trial",
        y_zero=True,
    )
    (step,), (dots,) = paths(chart, "c2 step"), paths(chart, "c0 dots dots")
    assert re.fullmatch(r"M0.0 ([\d.]+)H500.0V\1H1000.0V[\d.]+", step)
    assert re.findall(r"M([\d.]+) [\d.]+h0", dots) == ["0.0", "500.0", "1000.0"]
    assert "L" not in dots
    assert len(paths(chart, '[^g][^"]*')) == 2


def test_names_stand_on_the_axis_in_place_of_numbers() -> None:
    hostile = "<b>sgd</b>"
    chart = line_chart(
        [Series("tried", [0, 1, 1], [1.0, 2.0, 3.0], "dots")], title="t", x_label="kind", x_names=["adam", hostile]
    )
    assert re.findall(r'tick x" style="left:([\d.]+)%">([^<]*)<', chart) == [
        ("25.00", "adam"),
        ("75.00", "&lt;b&gt;sgd&lt;/b&gt;"),
    ]
    assert re.findall(r"M([\d.]+) [\d.]+h0", chart) == ["250.0", "750.0", "750.0"]
    assert json.loads(unescape(re.findall(r'data-chart="([^"]*)"', chart)[0]))["xn"] == ["adam", hostile]


def test_stacked_bars_are_cut_where_their_parts_end() -> None:
    graphic = stacked_bars([("a", [60.0, 20.0]), ("b", [10.0, 30.0])], ["train", "test"], title="Rows")
    rects = re.findall(r'class="c(\d)" x="([\d.]+)" width="([\d.]+)"', graphic)
    assert rects == [("0", "0.00", "75.00"), ("1", "75.00", "25.00"), ("0", "0.00", "12.50"), ("1", "12.50", "37.50")]
    assert re.findall(r'class="value">(\d+)<', graphic) == ["80", "40"]


def test_heat_map_draws_what_was_counted() -> None:
    counts = np.array([[75, 25, 0], [0, 0, 0], [1, 0, 99]])
    graphic = heat_map(["a", 2, "<c>"], counts, title="Confusion")
    cells = re.findall(
        r'<rect class="c(\d)" x="(\d+)" y="(\d+)" width="10" height="10" fill-opacity="([\d.]+)"', graphic
    )
    assert [(color, int(x) // 10, int(y) // 10) for color, x, y, _ in cells] == [
        ("0", 0, 0),
        ("1", 1, 0),
        ("1", 0, 2),
        ("0", 2, 2),
    ]
    assert [float(strength) ** 2 for *_, strength in cells] == pytest.approx([0.75, 0.25, 0.01, 0.99], abs=2e-3)
    assert 'title="a taken for 2: 25, 25.0 %"' in graphic
    assert "174 of 200 rows on the diagonal" in graphic
    table = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr><td.*?</tr>", graphic)]
    assert table == [["a", "75", "25", "0"], ["2", "0", "0", "0"], ["&lt;c&gt;", "1", "0", "99"]]
    assert "<c>" not in graphic


@pytest.mark.parametrize("y", [[], [None, None], [math.nan, math.nan]])
def test_nothing_to_draw_is_said(y: list[float | None]) -> None:
    assert "Nothing to draw" in line_chart([Series("a", range(len(y)), y)], title="t", x_label="step")


@pytest.mark.parametrize(("last", "ticks"), [(5, ["0", "1", "2", "3", "4", "5"]), (0.5, None)])
def test_whole_numbers_have_whole_ticks(last: float, ticks: list[str] | None) -> None:
    chart = line_chart([Series("a", [0, last], [1.0, 2.0])], title="t", x_label="trial", wide=True)
    found = re.findall(r'tick x" style="[^"]*">([^<]*)<', chart)
    assert found == ticks if ticks else any("." in tick for tick in found)


def test_single_value_has_an_axis() -> None:
    chart = line_chart([Series("lr", [10], [3e-5])], title="t", x_label="step")
    labels = re.findall(r'tick y" style="[^"]*">([^<]*)<', chart)
    assert len(labels) >= 2
    assert "3e-5" in labels


def test_funnel_bands_are_as_wide_as_their_values() -> None:
    graphic = funnel([("in", 200.0), ("out", 50.0)], title="Documents")
    bands = re.findall(r'class="band" d="M([\d.]+) \d+H([\d.]+)', graphic)
    assert [float(right) - float(left) for left, right in bands] == [1000.0, 250.0]
    assert "25.0 %" in graphic


def test_bars_are_as_long_as_their_values() -> None:
    graphic = bar_chart([("a", 30.0), ("b", 10.0)], title="Dropped")
    assert [float(width) for width in re.findall(r'width="([\d.]+)"', graphic)] == [100.0, 33.33]
    assert "75.0 %" in graphic


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (figures.count(0), "0"),
        (figures.count(999.6), "1k"),
        (figures.count(1_234_567), "1.23M"),
        (figures.count(8.03e9), "8.03B"),
        (figures.count(3e-5), "3e-5"),
        (figures.count(None), figures.UNKNOWN),
        (figures.count("12"), figures.UNKNOWN),
        (figures.quantity(9e10, "FLOP/s"), "90 GFLOP/s"),
        (figures.plain(3.14159), "3.142"),
        (figures.plain(1.2e-6), "1.2e-6"),
        (figures.short("abcdefghij", 10), "abcdefghij"),
        (figures.short("abcdefghijk", 6), "ab…ijk"),
        (figures.percent(0.55), "55.0 %"),
        (figures.percent(1), "100 %"),
        (figures.duration(59.96), "1 min 00 s"),
        (figures.duration(372), "6 min 12 s"),
        (figures.duration(3 * 3600 + 5 * 60), "3 h 05 min"),
        (figures.duration(2 * 86400 + 4 * 3600), "2 d 4 h"),
    ],
)
def test_numbers_as_people_read_them(written: str, expected: str) -> None:
    assert written == expected
