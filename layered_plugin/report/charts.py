"""Line charts for the report: drawn by matplotlib, as SVG inside data URIs, once for light pages and once for dark."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE_INCH = (4.6, 3.2)  # Small, so that the lettering stays readable on a phone.
MAX_NAMED = 6  # Of more lines than this, the single ones are not told apart.
COLORS = ("#4c6ef5", "#f76707", "#12b886", "#be4bdb", "#f59f00", "#e64980")

COMMON = {"svg.hashsalt": "layered", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
          "axes.grid": True, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlesize": 11,
          "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.8, "savefig.transparent": True,
          "text.parse_math": False}

# Lettering and grid of light and of dark pages; nothing else in a chart has these colors.
LIGHT, DARK = ("#343a40", "#e3e7ee"), ("#ced4da", "#333a46")

Line = tuple[Sequence[float], Sequence[float]]  # x, y


class Chart(NamedTuple):
    """A chart inside the report."""

    light: str  # Data URI.
    dark: str
    alt: str


def line_chart(title: str, xlabel: str, lines: Mapping[str, Line], level: tuple[str, float] | None = None) -> Chart:
    """Draw lines over a common axis.

    Args:
        title: Above the chart.
        xlabel: What x counts.
        lines: Name to x and y, of one length; y may hold NaN.
        level: Name and height of a dashed horizontal line.
    """
    import matplotlib  # Takes a second to import.

    ink, grid = LIGHT
    rc: Any = {**COMMON, "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink,
               "axes.edgecolor": ink, "grid.color": grid}
    buffer = io.StringIO()
    with matplotlib.rc_context(rc):
        draw_lines(title, xlabel, lines, level).savefig(buffer, format="svg", metadata={"Date": None})
    light = dark = buffer.getvalue()
    for old, new in zip(LIGHT, DARK, strict=True):
        dark = dark.replace(old, new)
    return Chart(_data_uri(light), _data_uri(dark), _in_words(title, xlabel, lines))


def draw_lines(title: str, xlabel: str, lines: Mapping[str, Line], level: tuple[str, float] | None) -> "Figure":
    """The figure of `line_chart`, in the style in force."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCH, layout="constrained")
    axes = figure.subplots()
    named = len(lines) <= MAX_NAMED
    for idx, (name, (x, y)) in enumerate(lines.items()):
        look: dict[str, Any] = dict(color=COLORS[idx], label=name) if named else dict(color=COLORS[0], alpha=0.35)
        axes.plot(x, y, marker="o" if len(x) == 1 else None, **look)
    if level is not None:
        axes.axhline(level[1], color=COLORS[-1], linestyle="--", linewidth=1.2, label=level[0])
    if all(value >= 0 or math.isnan(value) for _x, y in lines.values() for value in y):
        axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    if named and (len(lines) > 1 or level is not None):
        figure.legend(loc="outside lower left", ncols=3)
    return figure


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _in_words(title: str, xlabel: str, lines: Mapping[str, Line]) -> str:
    if len(lines) > MAX_NAMED:
        return f"{title}: {len(lines)} lines over {xlabel}."
    ends = "; ".join(f"{name} ends at {y[-1]:.3g}" for name, (_x, y) in lines.items())
    return f"{title} over {xlabel}: {ends}."
