"""For every detection a column: where its query looked, and what it found there."""

from __future__ import annotations

from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import PixelFigure
from detrscope.views.captions import OWN_PEAK, caption, heads, model, over, short, sums
from detrscope.views.grid import PanelGrid, in_rows, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions, maps_of, shown_queries, site_of
from detrscope.views.viewport import Viewport, corner_text, outline, overlay

MOST = 7  # columns beside each other
BEST = 21  # detections that are shown, where no queries were chosen


def draw_per_query(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """Above, the cross-attention of a query over the grey picture; below, its box and class; titled with its number.

    Raises:
        UserError: nothing was found, or the layer was not recorded.
    """
    found = shown_queries(trace, choice)
    shown = found if choice.queries else found[:BEST]
    _, site = site_of(trace, "decoder.cross", choice)
    maps = maps_of(trace, site, [one.query for one in shown], choice)
    blocks, columns = in_rows(shown, MOST)
    frame = Viewport.of(trace, choice)
    tiles = PanelGrid(panel_size(frame, columns, 300), columns, 2 * blocks)
    about = caption(
        model(trace),
        f"cross-attention at {site}, {heads(trace, site, choice)}",
        over(trace, site, choice),
        sums(maps),
        OWN_PEAK + ", given in its corner",
        f"the best {len(shown)} of {len(found)} detections" if len(shown) < len(found) else "",
    )
    sheet = tiles.sheet(
        f"Where each query looked, and what it found: {len(shown)} of {trace.queries} queries", about
    )
    for i, (one, attention) in enumerate(zip(shown, maps, strict=True)):
        row, column = 2 * (i // columns), i % columns
        over_picture = frame.panel(sheet, tiles.place(row, column), tiles.size, grey=True)
        corner_text(over_picture, short(overlay(over_picture, attention)))
        tiles.title(sheet, row, column, one.title)
        picture = frame.panel(sheet, tiles.place(row + 1, column), tiles.size)
        outline(picture, [one])
        tiles.title(sheet, row + 1, column, one.says)
    return sheet
