"""One query, or one place of the picture, in every head of every layer."""

from __future__ import annotations

import numpy as np

from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import PixelFigure
from detrscope.views.captions import OWN_PEAK, caption, model, over, short, sums
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions, head_maps, maps_of
from detrscope.views.row import attention_row
from detrscope.views.viewport import Viewport, attended_region, corner_text, mark, outline, overlay, zoom_note


def draw_heads(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """Rows are layers, columns heads and, last, all heads merged.

    Of a query of the decoder, with the box that the layer predicts; with a point, of the encoder's token there.

    Raises:
        UserError: nothing was found, or no layer was recorded.
    """
    who = attention_row(trace, choice, every_layer=True)
    grid = []
    for _, site in who.sites:
        maps = head_maps(trace, site, who.row, choice)
        if choice.head is not None:
            maps = [maps[choice.head]]
        else:
            maps += maps_of(trace, site, [who.row], choice)
        grid.append(maps)
    count = trace.record(who.sites[0][1]).shape[0]
    titles = [f"head {head}" for head in range(count)] + [f"{choice.merge} of heads"]
    if choice.head is not None:
        titles = [titles[choice.head % count]]
    whole = Viewport.of(trace, choice)
    boxes = {layer: who.boxes(trace, layer) for layer, _ in who.sites}
    corners = np.array([box.box_xyxy for shown in boxes.values() for box in shown]).reshape(-1, 2)
    frame = whole.near(np.concatenate([corners, *(attended_region(one) for row in grid for one in row)]))
    names = tuple(f"layer {index}" for index, _ in who.sites)
    size = panel_size(frame, len(titles), 240, 60)
    tiles = PanelGrid(size, len(titles), len(names), lines=0, names=names, tops=tuple(titles))
    about = caption(
        model(trace),
        f"{'self' if who.point else 'cross'}-attention at {', '.join(site for _, site in who.sites)}, {who.name}",
        over(trace, who.sites[-1][1], choice),
        sums([one for row in grid for one in row]),
        OWN_PEAK + ", given in its corner",
        "red: whose attention it is" if who.point else "box: what the layer predicts",
        zoom_note(frame, whole),
        who.instead,
    )
    sheet = tiles.sheet(f"Heads and layers of {who.name}", about)
    for row, (layer, _) in enumerate(who.sites):
        for column, attention in enumerate(grid[row]):
            panel = frame.panel(sheet, tiles.place(row, column), tiles.size, grey=True)
            corner_text(panel, short(overlay(panel, attention)))
            outline(panel, boxes[layer])
            if who.point:
                mark(panel, who.point)
    return sheet
