"""For every detection a column: where its query looked, and what it found there."""

from __future__ import annotations

from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import Sheet
from detrscope.views.captions import OWN_PEAK, caption, heads, model, over, short, sums
from detrscope.views.grid import Tiles, in_rows, panel_size
from detrscope.views.options import EVERYTHING, Choice, kept, maps_of, site_of
from detrscope.views.viewport import Frame, badge, lay, outline

MOST = 7  # columns beside each other
BEST = 21  # detections that are shown, where no queries were chosen


def draw_columns(trace: TraceData, choice: Choice = EVERYTHING) -> Sheet:
    """Above, the cross-attention of a query over the grey picture; below, its box and class; titled with its number.

    Raises:
        UserError: nothing was found, or the layer was not recorded.
    """
    found = kept(trace, choice)
    shown = found if choice.queries else found[:BEST]
    _, site = site_of(trace, "decoder.cross", choice)
    maps = maps_of(trace, site, [one.query for one in shown], choice)
    blocks, columns = in_rows(shown, MOST)
    frame = Frame.of(trace, choice)
    tiles = Tiles(panel_size(frame, columns, 300), columns, 2 * blocks)
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
        badge(over_picture, short(lay(over_picture, attention)))
        tiles.title(sheet, row, column, one.title)
        picture = frame.panel(sheet, tiles.place(row + 1, column), tiles.size)
        outline(picture, [one])
        tiles.title(sheet, row + 1, column, one.says)
    return sheet
