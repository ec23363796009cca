"""Figures for a paper or a README: one style, colours that colour-blind readers can tell apart.

matplotlib is imported inside the functions, and never pyplot: no state, no window.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (2008); with it each series has a marker of its own, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
DASHES = ("-", "--", ":")

_LEGEND_A_PANEL = 3
"""Names in a line of the legend at most, for each panel above it."""

# Any: matplotlib types its several hundred keys one by one.
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@dataclass(frozen=True)
class PlotSeries:
    """A series of a plot: its name in the legend, and as many x as y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: what it shows.
        x_label: the name of the horizontal axis, with its unit where there is one.
        y_label: the same of the vertical axis.
        series: drawn in this order, in the palette's order.
        logarithmic: both axes, only the positive points.
        doubling: the horizontal axis is logarithmic, with a tick at each of the first series' x.
        y_range: ends of the vertical axis; what the series need when None.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[PlotSeries]
    logarithmic: bool = False
    doubling: bool = False
    y_range: tuple[float, float] | None = None


def scatter(panels: Sequence[Panel]) -> Figure:
    """Scatter plots in a row, with one legend below for all of them."""
    return _figure(panels, _dots)


def lines(panels: Sequence[Panel]) -> Figure:
    """Line plots in a row, with one legend below for all of them."""
    return _figure(panels, _line)


def figure_file(figure: Figure, kind: str) -> bytes:
    """A figure as "png" or "svg"; the same numbers give the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    undated: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "haiftrace"}):
        figure.savefig(buffer, format=kind, metadata=undated)
    return buffer.getvalue()


def _figure(panels: Sequence[Panel], plot: Any) -> Figure:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(0.6 + 3.6 * len(panels), 3.3), layout="constrained")
        FigureCanvasAgg(figure)
        handles: dict[str, Any] = {}
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
            if panel.logarithmic:
                axes.set(xscale="log", yscale="log")
            if panel.doubling:
                axes.set_xscale("log", base=2)
                ticks = panel.series[0].x if panel.series else ()
                axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
                axes.minorticks_off()
            if panel.y_range is not None:
                axes.set_ylim(*panel.y_range)
            for number, series in enumerate(panel.series):
                handles.setdefault(series.name, plot(axes, series, number))
        rows = max(1, math.ceil(len(handles) / (_LEGEND_A_PANEL * len(panels))))
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=max(1, math.ceil(len(handles) / rows)),
        )
    return figure


def _style(number: int) -> dict[str, Any]:
    """Colour and marker of a series; the eighth has the first one's colour and another marker."""
    around, place = divmod(number, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[(place + 3 * around) % len(MARKERS)]}


def _dots(axes: Axes, series: PlotSeries, number: int) -> Any:
    return axes.scatter(
        series.x, series.y, s=14, alpha=0.75, linewidths=0, label=series.name, **_style(number)
    )


def _line(axes: Axes, series: PlotSeries, number: int) -> Any:
    (line,) = axes.plot(
        *(series.x, series.y),
        linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
        linewidth=1.4,
        markersize=4,
        label=series.name,
        **_style(number),
    )
    return line
