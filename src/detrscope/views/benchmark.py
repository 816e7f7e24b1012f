"""Time and memory of a benchmark against image size, queries and batch, or side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrscope.views.canvas import Chart, Drawing, Plot, class_colours

Line = tuple[Sequence[float], Sequence[float]]  # x and y of its points


@dataclass(frozen=True)
class Growth:
    """How time and memory grow with one axis of a benchmark.

    Attributes:
        axis: what grows, with its unit.
        milliseconds: line of an image's time, by side.
        mebibytes: line of the peak memory, by side.
    """

    axis: str
    milliseconds: Mapping[str, Line]
    mebibytes: Mapping[str, Line]


def draw_growth(growths: Sequence[Growth], path: str | Path | None = None, *, title: str = "") -> Drawing:
    """Draw a row of charts for each axis: time, and memory where it was measured.

    Args:
        growths: the axes.
        path: file to write; None to keep the drawing in memory.
        title: line of text above the charts.

    Returns:
        The drawing.
    """
    with_memory = any(growth.mebibytes for growth in growths)
    plot = Plot(1200 if with_memory else 800, 60 + 420 * len(growths), title)
    charts = iter(plot.grid(len(growths), 2 if with_memory else 1))
    for growth in growths:
        _draw_lines(next(charts), growth.milliseconds, growth.axis, "ms an image, median")
        if with_memory:
            _draw_lines(next(charts), growth.mebibytes, growth.axis, "peak memory, MiB")
    if path is not None:
        plot.save(path)
    return plot


def draw_side_by_side(
    charts: Mapping[str, Mapping[str, float]], path: str | Path | None = None, *, title: str = ""
) -> Drawing:
    """Draw a chart of bars for each quantity.

    Args:
        charts: title of a chart -> name of a bar -> its length.
        path: file to write; None to keep the drawing in memory.
        title: line of text above the charts.

    Returns:
        The drawing.
    """
    longest = max((len(bars) for bars in charts.values()), default=1)
    plot = Plot(600 * max(len(charts), 1), 120 + 34 * longest, title)
    for chart, (name, bars) in zip(plot.grid(1, max(len(charts), 1)), charts.items(), strict=False):
        colours = class_colours([*bars])
        chart.bars([*bars], [*bars.values()], [colours[bar] for bar in bars])
        chart.titles(name, align="left")
    if path is not None:
        plot.save(path)
    return plot


def _draw_lines(chart: Chart, lines: Mapping[str, Line], axis: str, label: str) -> None:
    for index, (name, (x, y)) in enumerate(lines.items()):
        chart.line(x, y, index, label=name, dots=4)
    chart.titles(label, x=axis)
    chart.limits(x=(0, None), y=(0, None))
    if chart.empty:
        chart.note("not measured")
    else:
        chart.legend()
