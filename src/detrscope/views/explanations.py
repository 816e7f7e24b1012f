"""The maps of all explanation methods for a few detections, with the region that they are expected to show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detrscope.lens.captions import OWN_PEAK, caption
from detrscope.lens.explained import ExplainedDetection
from detrscope.views.canvas import PixelFigure
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.selection import shown_predictions
from detrscope.views.viewport import Viewport, draw_boxes, draw_ground_truth, draw_map

SIDE = 190
COLUMNS = 7


def draw_explanations(
    detections: Sequence[ExplainedDetection], region: str, path: str | Path | None = None
) -> PixelFigure:
    """Draw, for each detection, the image with its box and the region, then the map of each method over the region.

    Args:
        detections: at least one; all with the maps of the same methods.
        region: name of the region, for the caption.
        path: file to write; None to keep the figure in memory.
    """
    first = detections[0]
    panels = 1 + len(first.maps)
    rows_each = -(-panels // COLUMNS)
    size = panel_size(Viewport.of(first.trace), COLUMNS, SIDE)
    grid = PanelGrid(size, COLUMNS, rows_each * len(detections))
    figure = grid.figure(
        "Explanations of detections",
        caption(
            first.trace.card.variant, f"white: the {region}", "each map less its smallest value", OWN_PEAK
        ),
    )
    for number, explained in enumerate(detections):
        viewport = Viewport.of(explained.trace)
        boxes = shown_predictions(explained.trace, [explained.query])
        titles = [boxes[0].label, *explained.maps]
        for place, title in enumerate(titles):
            row, column = divmod(place, COLUMNS)
            panel = grid.panel(figure, viewport, number * rows_each + row, column, title, grey=place > 0)
            if place == 0:
                draw_boxes(panel, boxes)
            else:
                draw_map(panel, explained.maps[title])
            draw_ground_truth(panel, explained.region_xyxy[None])
    if path is not None:
        figure.save(path)
    return figure
