"""One attention map over its image, with its colour scale and its caption."""

from __future__ import annotations

import numpy as np

from detrscope.core.attention_map import AttentionMap, QueryAttention
from detrscope.lens.captions import caption
from detrscope.views.canvas import WHITE, PixelFigure, Scale
from detrscope.views.grid import PanelGrid
from detrscope.views.selection import QueryPrediction
from detrscope.views.viewport import Viewport, draw_boxes, draw_map, draw_point, viewport_cells

SIDE = 560
MAX_BOXES = 8


def draw_attention(attention: AttentionMap | QueryAttention) -> PixelFigure:
    """Draw a map in colours over the grey image; attention among queries as their boxes in colours."""
    viewport = Viewport.of(attention)
    if isinstance(attention, QueryAttention):
        return _draw_query_attention(attention, viewport)
    scale = map_scale(attention)
    grid = PanelGrid(viewport.size(SIDE), 1, lines=0, scale=scale)
    figure = grid.figure("", caption(attention.caption))
    panel = grid.panel(figure, viewport, 0, 0, grey=True)
    draw_map(panel, attention, scale)
    draw_point(panel, attention.selection.point)
    return figure


def map_scale(attention: AttentionMap) -> Scale:
    """Return the colour scale of a map; of several levels, that of the mass in a cell of the finest."""
    unit = "weight of a token" if len(attention.parts) == 1 else "attention in a cell of the finest map"
    return Scale.from_even(viewport_cells(attention)[0], label=f"{unit}, from even attention up")


def _draw_query_attention(attention: QueryAttention, viewport: Viewport) -> PixelFigure:
    """Draw the attending query in white, the queries that it attends to most in the colours of their weights."""
    weights = attention.values.float().numpy()
    boxes = attention.geometry.boxes_xyxy(attention.boxes_cxcywh.float()).tolist()
    (query,) = attention.selection.queries
    scale = Scale.from_zero(weights, label="attention weight of a query")
    order = [q for q in np.argsort(-weights, kind="stable").tolist() if q != query][:MAX_BOXES]
    others = [
        QueryPrediction(q, "", float(weights[q]), tuple(boxes[q]), scale.marker_colour(weights[q]))
        for q in order
    ]
    about = f"{attention.caption}, {weights[query]:.2f} of it on itself (white); boxes of the {len(others)} others most"
    grid = PanelGrid(viewport.size(SIDE), 1, lines=0, scale=scale)
    figure = grid.figure("", caption(about), Scale.marker_colours)
    panel = grid.panel(figure, viewport, 0, 0, grey=True)
    draw_boxes(panel, others, [f"#{prediction.query}  {prediction.score:.2f}" for prediction in others])
    panel.box(boxes[query], WHITE, width=3)
    return figure
