"""Precision-recall curves per class and over all classes, at the IoUs of AP50 and AP75."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detrscope.views.canvas import Chart, Drawing, Plot

MAX_LINES = 8  # classes named in the legend; of more, only the best and the worst


def draw_precision_recall(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path | None = None,
    *,
    title: str = "",
) -> Drawing:
    """Draw a panel for IoU .50 and one for .75, with a line for each class and a black one for their mean.

    The legend gives the area under each line, the class's AP at that IoU. With more than `MAX_LINES`
    classes the four best and the four worst at IoU .50 are named and the others are grey.

    Args:
        curves: for each class name, precision at IoU .50 and at .75, each at 101 recalls from 0 to 1.
        path: file to write; None to keep the drawing in memory.
        title: line of text above the panels.

    Returns:
        The drawing.
    """
    plot = Plot(1200, 560, title)
    ranked = sorted(curves, key=lambda name: -float(np.mean(curves[name][0])))
    for column, (chart, iou) in enumerate(zip(plot.grid(1, 2), ("IoU .50", "IoU .75"), strict=True)):
        _panel(chart, {name: np.asarray(curves[name][column]) for name in ranked})
        chart.titles(iou, x="recall", y="precision")
        chart.limits((0, 1), (0, 1.02))
    if path is not None:
        plot.save(path)
    return plot


def _panel(chart: Chart, lines: dict[str, np.ndarray]) -> None:
    """Draw lines in the order of the legend."""
    if not lines:
        chart.note("no ground truth")
        return
    recall = np.linspace(0, 1, len(next(iter(lines.values())))).tolist()
    named = list(lines)
    if len(lines) > MAX_LINES:
        named = named[: MAX_LINES // 2] + named[-MAX_LINES // 2 :]
    for name in lines:
        if name not in named:
            chart.line(recall, lines[name], grey=0.8, width=0.7)
    for index, name in enumerate(named):
        chart.line(recall, lines[name], index, label=f"{name} {100 * lines[name].mean():.1f}")
    if len(lines) > 1:
        mean = np.mean(list(lines.values()), axis=0)
        label = f"mean of {len(lines)} classes {100 * mean.mean():.1f}"
        chart.line(recall, mean, label=label, grey=0.0, width=2.2)
    chart.legend("lower left")
