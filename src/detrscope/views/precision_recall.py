"""Precision-recall curves per class and over all classes, at the IoUs of AP50 and AP75."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detrscope.views.canvas import Chart, Drawing, Plot

NEAR_X, NEAR_Y = 0.3, 0.045  # length and height of a label, of the axes
MAX_LINES = 8  # classes named in the legend; of more, only the best and the worst


@dataclass(frozen=True)
class ThresholdMarks:
    """Precision and recall of all classes together at IoU .50, and the operating points to mark.

    Attributes:
        recall: recall at thresholds from the highest to the lowest.
        precision: precision at the same thresholds.
        points: recall, precision and label of each marked point.
    """

    recall: Sequence[float]
    precision: Sequence[float]
    points: Sequence[tuple[float, float, str]]


def draw_precision_recall(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path | None = None,
    *,
    title: str = "",
    marks: ThresholdMarks | None = None,
) -> Drawing:
    """Draw a panel for IoU .50 and one for .75, with a line for each class and a black one for their mean.

    The operating points are marked at IoU .50, on a grey line of all classes together: theirs is the precision that a
    user of the threshold gets, where the other lines are COCO's, the best precision at this recall or any higher one.

    The legend gives the area under each line, the class's AP at that IoU. With more than `MAX_LINES`
    classes the four best and the four worst at IoU .50 are named and the others are grey.

    Args:
        curves: for each class name, precision at IoU .50 and at .75, each at 101 recalls from 0 to 1.
        path: file to write; None to keep the drawing in memory.
        title: line of text above the panels.
        marks: operating points; None marks none.

    Returns:
        The drawing.
    """
    plot = Plot(1200, 560, title)
    ranked = sorted(curves, key=lambda name: -float(np.mean(curves[name][0])))
    for column, (chart, iou) in enumerate(zip(plot.grid(1, 2), ("IoU .50", "IoU .75"), strict=True)):
        _panel(chart, {name: np.asarray(curves[name][column]) for name in ranked}, None if column else marks)
        chart.titles(iou, x="recall", y="precision")
        chart.limits((0, 1), (0, 1.02))
    if path is not None:
        plot.save(path)
    return plot


def _panel(chart: Chart, lines: dict[str, np.ndarray], marks: ThresholdMarks | None) -> None:
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
    if marks is not None and len(marks.recall):
        chart.line(marks.recall, marks.precision, label="all classes together", grey=0.45, width=1.2)
        for group in _near_groups(marks.points):
            for x, y, _ in group[1:]:
                chart.mark(x, y, "")
            chart.mark(group[0][0], group[0][1], "\n".join(text for _, _, text in group), below_left=True)
    chart.legend("lower left")


def _near_groups(points: Sequence[tuple[float, float, str]]) -> list[list[tuple[float, float, str]]]:
    """Return the points in groups whose labels would overlap, each group from the highest precision down."""
    groups: list[list[tuple[float, float, str]]] = []
    for point in sorted(points, key=lambda point: -point[1]):
        for group in groups:
            if abs(group[0][1] - point[1]) < NEAR_Y * len(group) and abs(group[0][0] - point[0]) < NEAR_X:
                group.append(point)
                break
        else:
            groups.append([point])
    return groups
