"""What muting each part of a model does: a table of colours, a row for each attention site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detrscope.views.canvas import Drawing, Plot, Scale

CELL_WIDTH, CELL_HEIGHT, MARGIN = 74, 34, 190


def draw_ablation(
    changes: Mapping[str, Mapping[str, float]],
    path: str | Path | None = None,
    *,
    title: str = "",
    label: str = "",
) -> Drawing:
    """Draw the change that each part of each site makes.

    Args:
        changes: site -> part, such as `head 3` -> change.
        path: file to write; None to keep the drawing in memory.
        title: line of text above the table.
        label: what the numbers are, with their unit.

    Returns:
        The drawing.
    """
    columns = list(dict.fromkeys(part for parts in changes.values() for part in parts))
    values = np.array([[parts.get(column, np.nan) for column in columns] for parts in changes.values()])
    plot = Plot(MARGIN + CELL_WIDTH * max(len(columns), 4), 130 + CELL_HEIGHT * len(changes), title)
    (chart,) = plot.grid(1, 1)
    chart.matrix([*changes], columns, values, Scale.symmetric(np.nan_to_num(values)))
    chart.titles(label, align="left")
    if path is not None:
        plot.save(path)
    return plot
