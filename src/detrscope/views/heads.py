"""One query in every head of every layer."""

from __future__ import annotations

from detrscope.core.trace import Trace
from detrscope.views.canvas import Sheet
from detrscope.views.captions import OWN_PEAK, caption, model, over, short, sums
from detrscope.views.choice import EVERYTHING, Choice, head_maps, kept, layers_of, maps_of, predicted_at
from detrscope.views.frame import Frame, badge, lay, outline
from detrscope.views.tiles import Tiles, panel_size


def draw_heads(trace: Trace, choice: Choice = EVERYTHING) -> Sheet:
    """Rows are decoder layers, columns heads and, last, all heads merged; with the box that the layer predicts.

    Raises:
        UserError: nothing was found, or no layer was recorded.
    """
    first = kept(trace, choice)[0]
    layers = layers_of(trace, "decoder.cross", choice)
    grid = []
    for _, site in layers:
        maps = head_maps(trace, site, first.query, choice)
        if choice.head is not None:
            maps = [maps[choice.head]]
        else:
            maps += maps_of(trace, site, [first.query], choice)
        grid.append(maps)
    count = trace.record(layers[0][1]).shape[0]
    titles = [f"head {head}" for head in range(count)] + [f"{choice.merge} of heads"]
    if choice.head is not None:
        titles = [titles[choice.head % count]]
    frame = Frame.of(trace)
    names = tuple(f"layer {index}" for index, _ in layers)
    size = panel_size(frame, len(titles), 240, 60)
    tiles = Tiles(size, len(titles), len(layers), lines=0, names=names, tops=tuple(titles))
    about = caption(
        model(trace),
        f"cross-attention at {', '.join(site for _, site in layers)}, {first.title} ({first.says})",
        over(trace, layers[-1][1], choice),
        sums([one for row in grid for one in row]),
        OWN_PEAK + ", given in its corner",
        "box: what the layer predicts",
    )
    sheet = tiles.sheet(f"Heads and layers of {first.title} ({first.says})", about)
    for row, (layer, _) in enumerate(layers):
        boxes = predicted_at(trace, first.query, layer)
        for column, attention in enumerate(grid[row]):
            panel = frame.panel(sheet, tiles.place(row, column), tiles.size, grey=True)
            badge(panel, short(lay(panel, attention)))
            outline(panel, boxes)
    return sheet
