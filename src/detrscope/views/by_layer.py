"""One query on its way through the decoder: what each layer predicts, and where it looked."""

from __future__ import annotations

from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import WHITE, PixelFigure
from detrscope.views.captions import OWN_PEAK, caption, heads, model, over, short, sums
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import (
    DEFAULT_OPTIONS,
    ViewOptions,
    layers_of,
    maps_of,
    prediction_in_layer,
    shown_queries,
)
from detrscope.views.viewport import Viewport, corner_text, outline, overlay


def draw_by_layer(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """A column for each decoder layer: box, class and score above, the map below; dashed, the layer before.

    Raises:
        UserError: nothing was found, or no layer was recorded.
    """
    last = shown_queries(trace, choice)[0]
    layers = layers_of(trace, "decoder.cross", choice)
    maps = [maps_of(trace, site, [last.query], choice)[0] for _, site in layers]
    frame = Viewport.of(trace, choice)
    tiles = PanelGrid(panel_size(frame, len(layers), 320), len(layers), 2, lines=2)
    about = caption(
        model(trace),
        f"cross-attention at {', '.join(site for _, site in layers)}, {last.title}, "
        + heads(trace, layers[-1][1], choice),
        over(trace, layers[-1][1], choice),
        sums(maps),
        OWN_PEAK + ", given in its corner",
        "dashed: the box that the layer before predicted",
    )
    sheet = tiles.sheet(f"{last.title.capitalize()} through the layers", about)
    before = None
    for column, ((layer, site), attention) in enumerate(zip(layers, maps, strict=True)):
        now = prediction_in_layer(trace, last.query, layer)
        says = now[0].says if now else "predicts nothing here"
        tiles.title(sheet, 0, column, f"layer {layer}", says)
        panel = frame.panel(sheet, tiles.place(0, column), tiles.size)
        if before:
            panel.box(before[0].box_xyxy, WHITE, dashed=True)
        outline(panel, now)
        tiles.title(sheet, 1, column, site, f"sums to {attention.mass:.3f}")
        under = frame.panel(sheet, tiles.place(1, column), tiles.size, grey=True)
        corner_text(under, short(overlay(under, attention)))
        outline(under, now)
        before = now
    return sheet
