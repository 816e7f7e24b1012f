"""Cross-attention of each query above its box and class, and the mean map of all queries."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import (
    OWN_PEAK,
    caption,
    caption_heads,
    caption_model_and_source,
    caption_normalisation,
    caption_queries,
    caption_weight_sums,
)
from detrscope.lens.maps import map_of_rows, row_maps
from detrscope.views.attention import map_scale
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH
from detrscope.views.grid import PanelGrid, panel_size, rows_and_columns
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import QueryPrediction, select_recorded_site, shown_queries
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_map

MAX_COLUMNS = 7
MAX_LABELS = 20  # boxes with class and score on the mean map, of the best
MAX_DETECTIONS = 21  # shown where no queries were chosen


@dataclass(frozen=True)
class PerQuery(ViewData):
    """Queries with their maps."""

    queries: list[QueryPrediction]
    maps: list[AttentionMap]
    viewport: Viewport = field(metadata=HIDDEN)


def per_query_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> PerQuery:
    """Compute the cross-attention of each query in one layer.

    Raises:
        UserError: no detections, or the layer was not recorded.
    """
    detections = shown_queries(trace, options)
    queries = detections if options.queries else detections[:MAX_DETECTIONS]
    _, site = select_recorded_site(trace, "decoder.cross", options)
    selection = options.selection(site, tuple(prediction.query for prediction in queries))
    maps = row_maps(trace, selection)
    return PerQuery(
        heading=f"Cross-attention and prediction of each query: {len(queries)} of {trace.queries} queries",
        caption=caption(
            caption_model_and_source(trace),
            f"cross-attention at {site}, {caption_heads(trace, selection)}",
            caption_normalisation(trace, selection),
            caption_weight_sums(maps),
            OWN_PEAK,
            f"the best {len(queries)} of {len(detections)} detections"
            if len(queries) < len(detections)
            else "",
        ),
        queries=queries,
        maps=maps,
        viewport=Viewport.of(trace, options),
    )


def draw_per_query(data: PerQuery) -> PixelFigure:
    """Draw each query's map over the grey image, and below it its box and class."""
    blocks, columns = rows_and_columns(len(data.queries), MAX_COLUMNS)
    grid = PanelGrid(panel_size(data.viewport, columns, 300), columns, 2 * blocks)
    figure = grid.figure(data.heading, data.caption)
    for i, (prediction, attention) in enumerate(zip(data.queries, data.maps, strict=True)):
        row, column = 2 * (i // columns), i % columns
        draw_map(grid.panel(figure, data.viewport, row, column, prediction.title, grey=True), attention)
        draw_boxes(grid.panel(figure, data.viewport, row + 1, column, prediction.label), [prediction])
    return figure


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
    _, site = select_recorded_site(trace, "decoder.cross", options)
    selection = options.selection(site, tuple(prediction.query for prediction in queries))
    name = f"mean of {caption_queries(selection.queries)}"
    attention = map_of_rows(trace, selection, name)
    return MeanAttention(
        heading="Mean cross-attention of the queries",
        caption=caption(
            caption_model_and_source(trace),
            f"cross-attention at {site}, {caption_heads(trace, selection)}, {name}",
            caption_normalisation(trace, selection),
            caption_weight_sums([attention]),
        ),
        queries=queries,
        map=attention,
        viewport=Viewport.of(trace, options),
    )


def draw_mean(data: MeanAttention) -> PixelFigure:
    """Draw the mean map three times on one colour scale: with boxes, without, and alone."""
    scale = map_scale(data.map)
    grid = PanelGrid(panel_size(data.viewport, 3, 400, COLOUR_BAR_WIDTH), 3, scale=scale)
    figure = grid.figure(data.heading, data.caption, Scale.opaque)
    for column, title in enumerate(("with boxes", "without boxes", "the weights alone")):
        panel = grid.panel(figure, data.viewport, 0, column, title, grey=True)
        draw_map(panel, data.map, scale, transparent=column < 2)
        if column == 0:
            labels = [prediction.label if i < MAX_LABELS else "" for i, prediction in enumerate(data.queries)]
            draw_boxes(panel, data.queries, labels)
    return figure
