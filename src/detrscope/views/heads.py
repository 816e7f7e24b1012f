"""One query or image point in every head of every layer, and one query through the decoder layers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import (
    OWN_PEAK,
    caption,
    caption_heads,
    caption_model_and_source,
    caption_normalisation,
    caption_weight_sums,
)
from detrscope.lens.maps import head_maps, row_maps
from detrscope.views.canvas import WHITE, PixelFigure
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import (
    QueryPrediction,
    select_recorded_layers,
    selected_row,
    shown_predictions_in_layer,
    shown_queries,
)
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import (
    Viewport,
    draw_boxes,
    draw_map,
    draw_point,
    viewport_of_attention,
    zoom_note,
)


@dataclass(frozen=True)
class LayerMaps:
    """One layer: its maps, and what the query predicts there (nothing for a token)."""

    layer: int
    site: str
    maps: list[AttentionMap]
    predictions: list[QueryPrediction]


@dataclass(frozen=True)
class HeadMaps(ViewData):
    """Maps of a row by layer and head; the last column merges the heads, where all are shown."""

    columns: list[str]
    layers: list[LayerMaps]
    point: tuple[float, float] | None
    viewport: Viewport = field(metadata=HIDDEN)


def heads_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> HeadMaps:
    """Compute every head's map of a decoder query; with a point, of the encoder token there.

    Raises:
        UserError: no detections, or no layer was recorded.
    """
    row = selected_row(trace, options, every_layer=True)
    layers = []
    for layer, site in row.sites:
        selection = options.selection(site, (row.row,))
        maps = head_maps(trace, selection)
        if options.head is None:
            maps += row_maps(trace, selection)
        else:
            maps = [maps[options.head]]
        layers.append(LayerMaps(layer, site, maps, row.boxes(trace, layer)))
    count = trace.record(row.sites[0][1]).shape[0]
    columns = [f"head {head}" for head in range(count)] + [f"{options.merge} of heads"]
    every = [attention for layer in layers for attention in layer.maps]
    whole = Viewport.of(trace, options)
    corners = np.array([box.box_xyxy for layer in layers for box in layer.predictions]).reshape(-1, 2)
    viewport = whole.zoomed_to(np.concatenate([corners, *map(viewport_of_attention, every)]))
    return HeadMaps(
        heading=f"Heads and layers of {row.name}",
        caption=caption(
            caption_model_and_source(trace),
            f"{'self' if row.point else 'cross'}-attention at {', '.join(site for _, site in row.sites)}, {row.name}",
            " or ".join(
                dict.fromkeys(caption_normalisation(trace, options.selection(site)) for _, site in row.sites)
            ),
            caption_weight_sums(every),
            OWN_PEAK,
            "red: the point whose attention is shown" if row.point else "box: what the layer predicts",
            zoom_note(viewport, whole),
            row.note,
        ),
        columns=columns if options.head is None else [columns[options.head % count]],
        layers=layers,
        point=row.point,
        viewport=viewport,
    )


def draw_heads(data: HeadMaps) -> PixelFigure:
    """Draw layers as rows and heads as columns, with the box that the layer predicts or the point."""
    size = panel_size(data.viewport, len(data.columns), 240, 60)
    names = tuple(f"layer {layer.layer}" for layer in data.layers)
    columns = tuple(data.columns)
    grid = PanelGrid(size, len(columns), len(names), lines=0, row_names=names, column_names=columns)
    figure = grid.figure(data.heading, data.caption)
    for row, layer in enumerate(data.layers):
        for column, attention in enumerate(layer.maps):
            panel = grid.panel(figure, data.viewport, row, column, grey=True)
            draw_map(panel, attention)
            draw_boxes(panel, layer.predictions)
            draw_point(panel, data.point)
    return figure


@dataclass(frozen=True)
class ByLayer(ViewData):
    """Prediction and map of one query in each decoder layer."""

    layers: list[LayerMaps]
    viewport: Viewport = field(metadata=HIDDEN)


def by_layer_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> ByLayer:
    """Compute what one query predicts in each decoder layer, and its cross-attention there.

    Raises:
        UserError: no detections, or no layer was recorded.
    """
    query = shown_queries(trace, options)[0]
    layers = [
        LayerMaps(
            layer,
            site,
            row_maps(trace, options.selection(site, (query.query,))),
            shown_predictions_in_layer(trace, query.query, layer),
        )
        for layer, site in select_recorded_layers(trace, "decoder.cross", options)
    ]
    selection = options.selection(layers[-1].site)
    return ByLayer(
        heading=f"{query.title.capitalize()} through the layers",
        caption=caption(
            caption_model_and_source(trace),
            f"cross-attention at {', '.join(layer.site for layer in layers)}, {query.title}, "
            + caption_heads(trace, selection),
            caption_normalisation(trace, selection),
            caption_weight_sums([layer.maps[0] for layer in layers]),
            OWN_PEAK,
            "dashed: the box that the layer before predicted",
        ),
        layers=layers,
        viewport=Viewport.of(trace, options),
    )


def draw_by_layer(data: ByLayer) -> PixelFigure:
    """Draw a column for each decoder layer: box, class and score above, the map below; dashed, the layer before."""
    count = len(data.layers)
    grid = PanelGrid(panel_size(data.viewport, count, 320), count, 2, lines=2)
    figure = grid.figure(data.heading, data.caption)
    before: list[QueryPrediction] = []
    for column, layer in enumerate(data.layers):
        label = layer.predictions[0].label if layer.predictions else "predicts nothing here"
        panel = grid.panel(figure, data.viewport, 0, column, f"layer {layer.layer}", label)
        for prediction in before:
            panel.box(prediction.box_xyxy, WHITE, dashed=True)
        draw_boxes(panel, layer.predictions)
        (attention,) = layer.maps
        total = f"sums to {attention.mass:.3f}"
        panel = grid.panel(figure, data.viewport, 1, column, layer.site, total, grey=True)
        draw_map(panel, attention)
        draw_boxes(panel, layer.predictions)
        before = layer.predictions
    return figure
