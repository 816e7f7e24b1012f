"""Incoming attention of a point: columns of attention, where the other views show rows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import (
    OWN_PEAK,
    caption,
    caption_heads,
    caption_model_and_source,
    caption_normalisation,
)
from detrscope.lens.incoming_attention import incoming_from_queries, incoming_from_tokens
from detrscope.views.canvas import PixelFigure, Scale, text_size
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.canvas.text import TEXT_SIZE
from detrscope.views.grid import GAP, TITLE_HEIGHT
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions
from detrscope.views.selection import (
    QueryPrediction,
    select_box_centre,
    select_recorded_site,
    shown_predictions,
    shown_queries,
)
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_map, draw_point

SIDE = 400
MAX_BARS, MAX_BOXES = 12, 5  # queries with a bar, and with a box
MIN_WEIGHT = 1e-3  # of the greatest weight: a query with less does not attend to the point
BAR_WIDTH, NUMBER_WIDTH = 200, 60  # pixels, of the longest bar and its number
MAX_BAR_HEIGHT = 40  # pixels, with the room around a bar


@dataclass(frozen=True)
class AttendingQueries:
    """Queries that attend to the point most, and their weights [n]."""

    queries: list[QueryPrediction]
    weights: np.ndarray


@dataclass(frozen=True)
class IncomingData(ViewData):
    """Attention received by a point (x, y in pixels of the original); None where not recorded."""

    point: tuple[float, float]
    from_queries: AttendingQueries | None
    from_tokens: AttentionMap | None
    viewport: Viewport = field(metadata=HIDDEN)


def incoming_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> IncomingData:
    """Compute how much decoder queries and encoder tokens attend to a point.

    Raises:
        NotInTrace: neither was recorded.
        UserError: no point was chosen, and there are no detections.
    """
    (point,) = options.points[:1] or [select_box_centre(shown_queries(trace, options)[0].box_xyxy, trace)]
    from_queries, from_tokens, captions = None, None, []
    with suppress(NotInTrace):
        from_queries, about = _from_queries(trace, options, point)
        captions.append(about)
    with suppress(NotInTrace):
        from_tokens = _from_tokens(trace, options, point)
        captions.append(f"right: {from_tokens.caption}, {OWN_PEAK}")
    if from_queries is None and from_tokens is None:
        select_recorded_site(trace, "decoder.cross", options)  # raises with the reason
    return IncomingData(
        heading=f"Incoming attention of ({point[0]:.0f}, {point[1]:.0f})",
        caption=caption(
            caption_model_and_source(trace),
            *captions,
            "these are columns: rows are normalised, a column need not sum to 1",
        ),
        point=point,
        from_queries=from_queries,
        from_tokens=from_tokens,
        viewport=Viewport.of(trace, options),
    )


def draw_incoming(data: IncomingData) -> PixelFigure:
    """Draw the boxes and weights of attending queries, and the map of attending tokens."""
    size, shown = data.viewport.size(SIDE), data.from_queries
    names = [f"{prediction.title} ({prediction.label})" for prediction in shown.queries] if shown else []
    beside = GAP + max((text_size(name, TEXT_SIZE)[0] for name in names), default=0)
    queries_width = size[0] + GAP + beside + BAR_WIDTH + NUMBER_WIDTH + GAP if shown else 0
    width = MARGIN + queries_width + (size[0] + GAP if data.from_tokens else 0)
    figure = PixelFigure(width - GAP + MARGIN, TITLE_HEIGHT + size[1], data.heading, data.caption)
    x: float = MARGIN
    if shown:
        figure.text("decoder queries that attend to the point", x, 0)
        panel = data.viewport.panel(figure, (x, TITLE_HEIGHT), size, grey=True)
        scale = Scale.from_zero(shown.weights)
        colours = [scale.marker_colour(weight) for weight in shown.weights]
        coloured = [
            replace(prediction, colour=c) for prediction, c in zip(shown.queries, colours, strict=True)
        ][:MAX_BOXES]
        draw_boxes(panel, coloured, [f"#{prediction.query}" for prediction in coloured])
        draw_point(panel, data.point)
        bars_left = x + size[0] + GAP + beside
        figure.text("weight", bars_left, 0)
        chart = figure.chart(bars_left, TITLE_HEIGHT, BAR_WIDTH, min(size[1], MAX_BAR_HEIGHT * len(names)))
        chart.bars(names, shown.weights.tolist(), colours)
    if data.from_tokens is not None:
        figure.text("encoder tokens that attend to the point", x + queries_width, 0)
        panel = data.viewport.panel(figure, (x + queries_width, TITLE_HEIGHT), size, grey=True)
        draw_map(panel, data.from_tokens)
        draw_point(panel, data.point)
    return figure


def _from_queries(
    trace: TraceData, options: ViewOptions, point: tuple[float, float]
) -> tuple[AttendingQueries, str]:
    layer, site = select_recorded_site(trace, "decoder.cross", options)
    weights = incoming_from_queries(trace, point, layer, options.head, options.merge, options.level).numpy()
    order = np.argsort(-weights, kind="stable")
    order = order[weights[order] >= MIN_WEIGHT * weights.max()][:MAX_BARS]
    one_level = options.level is not None or len(trace.levels) == 1
    selection = options.selection(site)
    about = (
        f"left: cross-attention at {site}, {caption_heads(trace, selection)}, weights of {len(weights)} queries at "
        f"{'the token' if one_level else 'the tokens of all levels'} of the point ({weights.sum():.3g} in all), "
        f"a row is a {caption_normalisation(trace, selection)}; those with at least {MIN_WEIGHT:.1%} of the greatest, "
        f"boxes of the first {MAX_BOXES}"
    )
    return AttendingQueries(shown_predictions(trace, order.tolist()), weights[order]), about


def _from_tokens(trace: TraceData, options: ViewOptions, point: tuple[float, float]) -> AttentionMap:
    layer, _ = select_recorded_site(trace, trace.token_kind, options)
    return incoming_from_tokens(
        trace, point, layer, options.head, options.merge, options.from_level, options.level
    )
