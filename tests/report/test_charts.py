"""Charts: both themes, the lines that were given, nothing left behind."""

import base64
import math

import matplotlib
import numpy as np

from layered_plugin.report import charts


def test_charts_are_drawn_for_both_themes_and_leave_no_trace():
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    values = {"a": ([0, 1, 2], [0.5, math.nan, 0.25]), "b": ([1], [3.0])}
    chart = charts.line_chart("Loss <1>", "step", values, level=("least", 0.2))
    assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == backend
    assert chart.alt == "Loss <1> over step: a ends at 0.25; b ends at 3."
    light, dark = (base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
                   for source in (chart.light, chart.dark))
    assert light.startswith("<?xml") and all(color in light for color in charts.LIGHT)
    assert all(color in dark for color in charts.DARK)
    assert not any(color in dark for color in charts.LIGHT)
    assert chart == charts.line_chart("Loss <1>", "step", values, level=("least", 0.2))
    (axes,) = charts.draw_lines("t", "x", values, None).axes
    for line, (x, y) in zip(axes.lines, values.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_array_equal(line.get_ydata(), y)
    many = {str(idx): ([0, 1], [1, idx]) for idx in range(9)}
    assert charts.line_chart("Chunks", "step", many).alt == "Chunks: 9 lines over step."
