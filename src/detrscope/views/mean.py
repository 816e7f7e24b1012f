"""The mean attention of all shown queries: with boxes, without boxes, and as a plain map."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import (
    caption,
    heads_used,
    listed_queries,
    model_and_source,
    normalisation,
    weight_sums,
)
from detrscope.lens.maps import map_of_rows
from detrscope.views.attention import map_scale
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import QueryPrediction, recorded_site, shown_queries
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_map

SIDE = 400
MAX_LABELS = 20  # boxes with class and score, of the best


@dataclass(frozen=True)
class MeanAttention(ViewData):
    """Queries and the mean of their maps."""

    queries: list[QueryPrediction]
    map: AttentionMap
    viewport: Viewport = field(metadata=HIDDEN)


def mean_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> MeanAttention:
    """Compute the mean cross-attention of the shown queries in one layer.

    Raises:
        UserError: no detections, or the layer was not recorded.
    """
    queries = shown_queries(trace, options)
    _, site = recorded_site(trace, "decoder.cross", options)
    selection = options.selection(site, tuple(one.query for one in queries))
    name = f"mean of {listed_queries(selection.queries)}"
    attention = map_of_rows(trace, selection, name)
    return MeanAttention(
        heading="Mean cross-attention of the queries",
        caption=caption(
            model_and_source(trace),
            f"cross-attention at {site}, {heads_used(trace, selection)}, {name}",
            normalisation(trace, selection),
            weight_sums([attention]),
        ),
        queries=queries,
        map=attention,
        viewport=Viewport.of(trace, options),
    )


def draw_mean(data: MeanAttention) -> PixelFigure:
    """Draw the mean map three times on one colour scale: with boxes, without, and alone."""
    scale = map_scale(data.map)
    grid = PanelGrid(panel_size(data.viewport, 3, SIDE, COLOUR_BAR_WIDTH), 3, scale=scale)
    figure = grid.figure(data.heading, data.caption, Scale.opaque)
    for column, title in enumerate(("with boxes", "without boxes", "the weights alone")):
        panel = grid.panel(figure, data.viewport, 0, column, title, grey=True)
        draw_map(panel, data.map, scale, transparent=column < 2)
        if column == 0:
            labels = [one.label if i < MAX_LABELS else "" for i, one in enumerate(data.queries)]
            draw_boxes(panel, data.queries, labels)
    return figure
