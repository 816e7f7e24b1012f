"""Decoder self-attention: how queries attend to each other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import caption, caption_heads, caption_model_and_source, caption_normalisation
from detrscope.lens.maps import map_of_self_attention
from detrscope.views.canvas import WHITE, PixelFigure, Scale, shorten_to_width, text_colour_on, text_size
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH, MARGIN
from detrscope.views.canvas.text import TEXT_SIZE, TITLE_SIZE
from detrscope.views.grid import GAP, MIN_WIDTH, TITLE_HEIGHT
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import (
    QueryPrediction,
    select_box_centre,
    select_recorded_site,
    shown_predictions,
    shown_queries,
)
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, short_number

SIDE = 420
MAX_ROWS = 10  # queries of the table
MAX_LINKS = 6  # queries linked to the first
CELL = 52  # pixels


@dataclass(frozen=True)
class QueryAttentionTable(ViewData):
    """Attention among queries.

    Attributes:
        queries: queries of the table.
        weights: [n, n], rows attend to columns.
        others: [n] attention of each row to all queries that are not shown.
        linked: queries that the first one attends to most.
        linked_weights: their weights.
        links: start and end of each link, x, y in pixels of the original: [m, 2, 2].
    """

    queries: list[QueryPrediction]
    weights: np.ndarray
    others: np.ndarray
    linked: list[QueryPrediction]
    linked_weights: np.ndarray
    links: np.ndarray = field(metadata=HIDDEN)
    viewport: Viewport = field(metadata=HIDDEN)


def query_self_attention_data(
    trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS
) -> QueryAttentionTable:
    """Compute how the shown queries attend to each other, and which queries the first attends to most.

    Raises:
        NotInTrace: it was not recorded.
        UserError: no detections.
    """
    queries = shown_queries(trace, options)[:MAX_ROWS]
    layer, site = select_recorded_site(trace, "decoder.self", options)
    head, merge, selection = options.head, options.merge, options.selection(site)
    rows = np.stack(
        [
            map_of_self_attention(
                trace, query=prediction.query, layer=layer, head=head, merge=merge
            ).values.numpy()
            for prediction in queries
        ]
    )  # [n, Q]
    weights = rows[:, [prediction.query for prediction in queries]]
    first = queries[0]
    order = [q for q in np.argsort(-rows[0], kind="stable").tolist() if q != first.query][:MAX_LINKS]
    linked = shown_predictions(trace, order)
    start = select_box_centre(first.box_xyxy, trace)
    return QueryAttentionTable(
        heading="Decoder self-attention of queries",
        caption=caption(
            caption_model_and_source(trace),
            f"self-attention at {site}, {caption_heads(trace, selection)}, {caption_normalisation(trace, selection)}",
            f"left: {first.title} (white) and the {MAX_LINKS} others it attends to most, with their boxes of the last "
            "layer, by number and weight",
            "right: rows attend to columns; beside it all queries that are not shown together, without a colour",
        ),
        queries=queries,
        weights=weights,
        others=rows.sum(1) - weights.sum(1),
        linked=linked,
        linked_weights=rows[0][order],
        links=np.array([[start, select_box_centre(prediction.box_xyxy, trace)] for prediction in linked]),
        viewport=Viewport.of(trace),
    )


def draw_query_self_attention(data: QueryAttentionTable) -> PixelFigure:
    """Draw the image with the queries that the first one attends to, and the table of attention weights."""
    size = data.viewport.size(SIDE)
    left = (
        MARGIN
        + size[0]
        + 3 * GAP
        + max(text_size(prediction.title, TITLE_SIZE)[0] for prediction in data.queries)
    )
    across, down = CELL * (len(data.queries) + 1), CELL * len(data.queries)
    width = left + across + 2 * GAP + COLOUR_BAR_WIDTH + MARGIN
    height = TITLE_HEIGHT + max(size[1], TITLE_HEIGHT + down)
    figure = PixelFigure(max(width, MIN_WIDTH), height, data.heading, data.caption)
    _draw_links(figure, size, data)
    scale = Scale.from_zero(data.weights, label="attention weight")
    _draw_table(figure, (left, 2 * TITLE_HEIGHT), data, scale)
    figure.colour_bar(left + across + 2 * GAP, 2 * TITLE_HEIGHT, max(down, 3 * CELL), scale, Scale.opaque)
    return figure


def _draw_links(figure: PixelFigure, size: tuple[int, int], data: QueryAttentionTable) -> None:
    """Draw the first query's box in white, and the others' in the colours of their weights."""
    first, weights = data.queries[0], data.linked_weights
    scale = Scale.from_zero(weights)
    title = f"{first.title} ({first.label}) attends to"
    figure.text(shorten_to_width(title, TITLE_SIZE, size[0]), MARGIN, 0)
    panel = data.viewport.panel(figure, (MARGIN, TITLE_HEIGHT), size, grey=True)
    others = [
        replace(prediction, colour=scale.marker_colour(weight))
        for prediction, weight in zip(data.linked, weights, strict=True)
    ]
    for prediction, weight, (start, end) in reversed(list(zip(others, weights, data.links, strict=True))):
        panel.lines(start[None], end[None], prediction.colour, 1 + 4 * float(scale.fraction(weight)))
    texts = [
        f"#{prediction.query}  {short_number(weight)}"
        for prediction, weight in zip(others, weights, strict=True)
    ]
    draw_boxes(panel, others, texts)
    panel.box(first.box_xyxy, WHITE, width=3)


def _draw_table(
    figure: PixelFigure, corner: tuple[float, float], data: QueryAttentionTable, scale: Scale
) -> None:
    """Draw weights on their colours, queries named at the left and above; the rest of each row beside it."""
    (left, top), (rows, columns) = corner, data.weights.shape
    panel = figure.panel(left, top, CELL * columns, CELL * rows, (0, 0, columns, rows), smooth=False)
    panel.heatmap(data.weights, scale, transparent=False)
    for i, prediction in enumerate(data.queries):
        figure.text(prediction.title, left - GAP, top + (i + 0.5) * CELL - TITLE_SIZE / 2, align="right")
    for j, name in enumerate([*(str(prediction.query) for prediction in data.queries), "others"]):
        figure.text(name, left + (j + 0.5) * CELL, top - TITLE_HEIGHT, align="center")
    x = left + (columns + 0.5) * CELL
    for i, rest in enumerate(data.others):
        y = top + (i + 0.5) * CELL - TEXT_SIZE / 2
        figure.text(short_number(rest), x, y, align="center", size=TEXT_SIZE)
    for (i, j), weight in np.ndenumerate(data.weights):
        text = short_number(weight)
        across, down = (side / CELL for side in text_size(text, TEXT_SIZE))
        xy = (j + (1 - across) / 2, i + (1 - down) / 2)
        panel.label(text, xy, text_colour=text_colour_on(scale.colour(weight)))
