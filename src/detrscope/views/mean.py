"""The attention of all shown queries together: over the picture with boxes, without boxes, and as a plain map."""

from __future__ import annotations

from detrscope.core.attention_map import Selection
from detrscope.core.trace_data import TraceData
from detrscope.lens.maps import map_of_rows
from detrscope.views.attention import OF_CELLS, OF_TOKENS
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.canvas.figure import SCALE
from detrscope.views.captions import caption, heads, model, numbers, over, sums
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions, shown_queries, site_of
from detrscope.views.viewport import Viewport, outline, overlay, plane

SIDE = 400
NAMED = 20  # boxes with their class and score, of the best


def draw_mean(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """The mean over the shown queries, three times on one colour scale.

    Raises:
        UserError: nothing was found, or the layer was not recorded.
    """
    shown = shown_queries(trace, choice)
    _, site = site_of(trace, "decoder.cross", choice)
    queries = tuple(one.query for one in shown)
    who = f"mean of {numbers(queries)}"
    selection = Selection(site, queries, choice.head, choice.merge, choice.level)
    attention = map_of_rows(trace, selection, who)
    frame = Viewport.of(trace, choice)
    scale = Scale.amounts(plane(attention)[0], label=OF_TOKENS if len(attention.parts) == 1 else OF_CELLS)
    tiles = PanelGrid(panel_size(frame, 3, SIDE, SCALE), 3, scale=scale)
    about = caption(
        model(trace),
        f"cross-attention at {site}, {heads(trace, site, choice)}, {who}",
        over(trace, site, choice),
        sums([attention]),
    )
    sheet = tiles.sheet("Where the queries looked, merged", about, Scale.colours)
    for column, title in enumerate(("with boxes", "without boxes", "the weights alone")):
        tiles.title(sheet, 0, column, title)
        panel = frame.panel(sheet, tiles.place(0, column), tiles.size, grey=True)
        overlay(panel, attention, scale, veil=column < 2)
        if column == 0:
            outline(panel, shown, [one.says if i < NAMED else "" for i, one in enumerate(shown)])
    return sheet
