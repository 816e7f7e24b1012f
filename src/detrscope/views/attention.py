"""One map of attention over its picture, with its scale and its caption."""

from __future__ import annotations

import numpy as np

from detrscope.core.attention_map import AttentionMap, QueryAttention
from detrscope.views.canvas import WHITE, PixelFigure, Scale
from detrscope.views.captions import caption
from detrscope.views.grid import PanelGrid
from detrscope.views.options import ShownQuery
from detrscope.views.viewport import Viewport, mark, outline, plane

SIDE = 560
OUTLINED = 8  # queries with a box
OF_TOKENS, OF_CELLS = "attention weight of a token", "attention in a cell of the finest map"
OF_QUERIES = "attention weight of a query"


def draw_attention(attention: AttentionMap | QueryAttention) -> PixelFigure:
    """A map in colours over the grey picture; attention among queries as their boxes in colours.

    The scale is that of the weights: of tokens, with several maps the mass in a cell of the finest of them, or of
    queries.
    """
    frame = Viewport.of(attention)
    if isinstance(attention, QueryAttention):
        return _among_queries(attention, frame)
    values, extent = plane(attention)
    scale = Scale.amounts(values, label=OF_TOKENS if len(attention.parts) == 1 else OF_CELLS)
    tiles = PanelGrid(frame.size(SIDE), 1, lines=0, scale=scale)
    sheet = tiles.sheet("", caption(attention.caption))
    panel = frame.panel(sheet, tiles.place(0, 0), tiles.size, grey=True)
    panel.heat(values, scale, extent)
    if attention.selection.point is not None:
        mark(panel, attention.selection.point)
    return sheet


def _among_queries(attention: QueryAttention, frame: Viewport) -> PixelFigure:
    """The query that looks in white, those that it looks at most in the colours of their weights."""
    weights = attention.values.float().numpy()
    boxes = attention.geometry.boxes_xyxy(attention.boxes_cxcywh.float()).tolist()
    (looker,) = attention.selection.queries
    scale = Scale.amounts(weights, label=OF_QUERIES)
    order = [q for q in np.argsort(-weights, kind="stable").tolist() if q != looker][:OUTLINED]
    shown = [ShownQuery(q, "", float(weights[q]), tuple(boxes[q]), scale.ink(weights[q])) for q in order]
    tiles = PanelGrid(frame.size(SIDE), 1, lines=0, scale=scale)
    about = f"{attention.caption}, {weights[looker]:.2f} of it on itself (white); boxes of the {len(shown)} others most"
    sheet = tiles.sheet("", caption(about), Scale.inks)
    panel = frame.panel(sheet, tiles.place(0, 0), tiles.size, grey=True)
    outline(panel, shown, [f"#{one.query}  {one.score:.2f}" for one in shown])
    panel.box(boxes[looker], WHITE, width=3)
    return sheet
