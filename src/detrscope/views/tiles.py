"""A large image with the detections of all its tiles, and their attention stitched together.

These views read a trace of each tile of one image, not a single trace, so they are not in `VIEWS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from detrscope.core.attention_map import AttentionMap
from detrscope.core.tile_merging import merge_tiles
from detrscope.core.tiling import Rect
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import caption, caption_heads, caption_model_and_source, caption_normalisation
from detrscope.lens.maps import row_maps
from detrscope.lens.stitched import stitch_attention
from detrscope.views.canvas import PixelFigure, Scale, class_colours, drawable_class_label
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH
from detrscope.views.grid import PanelGrid, panel_size, rows_and_columns
from detrscope.views.options import DEFAULT_OPTIONS, NoDetections, ViewOptions
from detrscope.views.selection import QueryPrediction, select_recorded_site
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_map

MAX_COLUMNS = 7
MAX_DETECTIONS = 21  # with a panel of their own, of the best
MAX_LABELS = 40  # boxes with class and score on the whole image, of the best
SIDE = 1200  # pixels, of the longer side of the stitched map
AREA = 10_000  # pixels: attention is shown per 100 x 100


@dataclass(frozen=True)
class TileDetection:
    """A detection and the tile in which its query found it."""

    prediction: QueryPrediction
    tile_xyxy: Rect  # pixels of the original


@dataclass(frozen=True)
class StitchedData(ViewData):
    """Detections of all tiles, and the attention of all of them over the image."""

    detections: list[TileDetection]
    values: np.ndarray = field(metadata=HIDDEN)  # [h, w] attention per 100 x 100 pixels of the original
    viewport: Viewport = field(metadata=HIDDEN)


def stitched_data(traces: Sequence[TraceData], options: ViewOptions = DEFAULT_OPTIONS) -> StitchedData:
    """Merge the detections of all tiles and stitch their attention together.

    Args:
        traces: a trace of each tile of one image, and of the image as a whole where it was detected in, too.
        options: layer, head, level, merge, cells and threshold.

    Raises:
        NoDetections: nothing reaches the threshold.
        UserError: the layer was not recorded, or there is no such head or level.
    """
    detections = _merged(traces, options.threshold)
    tiles = [trace for trace in traces if not _is_whole(trace)] or [*traces]
    first = tiles[0]
    _, site = select_recorded_site(first, "decoder.cross", options)
    selection = options.selection(site)
    g = first.geometry
    scale = min(1.0, SIDE / max(g.height, g.width))
    size = max(1, round(g.height * scale)), max(1, round(g.width * scale))
    values = stitch_attention(tiles, selection, options.threshold, size, not options.cells) * AREA
    whole = (
        sum(_is_place_of(d.tile_xyxy, g.width, g.height) for d in detections)
        if len(tiles) < len(traces)
        else 0
    )
    return StitchedData(
        heading=f"Detections in {_count(len(tiles), 'tile')} and their cross-attention",
        caption=caption(
            caption_model_and_source(first),
            f"{_count(len(detections), 'detection')} with a score of {options.threshold:g} or more, merged",
            _sizes(tiles),
            f"{_count(whole, 'detection')} found in the image as a whole, whose attention is not shown"
            if whole
            else "",
            f"cross-attention at {site}, {caption_heads(first, selection)}, {caption_normalisation(first, selection)} "
            "of a tile; sum over its detections, then mean over the tiles that cover a pixel",
        ),
        detections=detections,
        values=values.numpy(),
        viewport=Viewport.of(first, options),
    )


def draw_stitched(data: StitchedData) -> PixelFigure:
    """Draw the whole image twice: with all boxes, and with the stitched attention."""
    scale = Scale.from_zero(data.values, label="attention per 100 x 100 pixels")
    grid = PanelGrid(panel_size(data.viewport, 2, 800, COLOUR_BAR_WIDTH), 2, scale=scale)
    figure = grid.figure(data.heading, data.caption)
    predictions = [detection.prediction for detection in data.detections]
    labels = [prediction.label if i < MAX_LABELS else "" for i, prediction in enumerate(predictions)]
    draw_boxes(grid.panel(figure, data.viewport, 0, 0, "detections"), predictions, labels, size=10)
    panel = grid.panel(figure, data.viewport, 0, 1, "their cross-attention", grey=True)
    panel.heatmap(data.values, scale, data.viewport.extent)
    return figure


@dataclass(frozen=True)
class TileQueries(ViewData):
    """Detections with the maps of their queries, each in its tile."""

    detections: list[TileDetection]
    maps: list[AttentionMap]
    viewport: Viewport = field(metadata=HIDDEN)


def tile_queries_data(traces: Sequence[TraceData], options: ViewOptions = DEFAULT_OPTIONS) -> TileQueries:
    """Compute the cross-attention of the best detections of all tiles; arguments and errors as of `stitched_data`."""
    detections = _merged(traces, options.threshold)
    shown = detections[:MAX_DETECTIONS]
    trace_of = {_place(trace): trace for trace in traces}
    first = trace_of[shown[0].tile_xyxy]
    _, site = select_recorded_site(first, "decoder.cross", options)
    maps = [
        row_maps(trace_of[detection.tile_xyxy], options.selection(site, (detection.prediction.query,)))[0]
        for detection in shown
    ]
    selection = options.selection(site)
    return TileQueries(
        heading=f"Cross-attention of the {_count(len(shown), 'best detection')}, each in its tile",
        caption=caption(
            caption_model_and_source(first),
            f"cross-attention at {site}, {caption_heads(first, selection)}",
            f"{caption_normalisation(first, selection)} of the tile",
            "each map has its own colour scale; the number is its peak",
            f"the best {len(shown)} of {len(detections)} detections" if len(shown) < len(detections) else "",
        ),
        detections=shown,
        maps=maps,
        viewport=Viewport.of(first, options),
    )


def draw_tile_queries(data: TileQueries) -> PixelFigure:
    """Draw each detection's tile with the map and the box."""
    rows, columns = rows_and_columns(len(data.detections), MAX_COLUMNS)
    viewports = {d.tile_xyxy: data.viewport.of_window(d.tile_xyxy) for d in data.detections}
    first = viewports[data.detections[0].tile_xyxy]
    grid = PanelGrid(panel_size(first, columns, 300), columns, rows, lines=2)
    figure = grid.figure(data.heading, data.caption)
    for i, (detection, attention) in enumerate(zip(data.detections, data.maps, strict=True)):
        prediction, (x0, y0, x1, y1) = detection.prediction, detection.tile_xyxy
        titles = prediction.label, f"query {prediction.query} at {x0},{y0} to {x1},{y1}"
        row, column = divmod(i, columns)
        grid.title(figure, row, column, *titles)
        corner = grid.corner(row, column)
        panel = viewports[detection.tile_xyxy].panel_in(figure, (*corner, *grid.size), grey=True)
        draw_map(panel, attention)
        draw_boxes(panel, [prediction])
    return figure


def _merged(traces: Sequence[TraceData], threshold: float) -> list[TileDetection]:
    """Return the detections of all traces, merged, best first.

    Raises:
        NoDetections: nothing reaches the threshold.
    """
    first = traces[0]
    g = first.geometry
    merged = merge_tiles([(_place(trace), trace.predictions()) for trace in traces])
    found = merged.detections(first.classes, threshold, height=g.height, width=g.width)
    if not len(found):
        best = (
            f"the best is {float(merged.scores.max()):.2f}" if len(merged.scores) else "nothing is predicted"
        )
        raise NoDetections(f"nothing scores {threshold:g} or more; {best}: choose a lower threshold")
    assert found.tiles_xyxy is not None, "merge_tiles gives them"
    colours = class_colours(first.classes.names)
    rows = zip(
        found.names,
        found.labels.tolist(),
        found.scores.tolist(),
        found.query_ids.tolist(),
        found.boxes_xyxy.tolist(),
        found.tiles_xyxy.tolist(),
        strict=True,
    )
    return [
        TileDetection(
            QueryPrediction(query, drawable_class_label(name, label), score, tuple(box), colours[name]),
            tuple(tile),
        )
        for name, label, score, query, box, tile in rows
    ]


def _place(trace: TraceData) -> Rect:
    x0, y0, x1, y1 = map(round, trace.geometry.crop_xyxy)
    return x0, y0, x1, y1


def _is_place_of(place: Rect, width: int, height: int) -> bool:
    return place == (0, 0, width, height)


def _is_whole(trace: TraceData) -> bool:
    return _is_place_of(_place(trace), trace.geometry.width, trace.geometry.height)


def _sizes(tiles: Sequence[TraceData]) -> str:
    sizes = dict.fromkeys((x1 - x0, y1 - y0) for x0, y0, x1, y1 in map(_place, tiles))
    return f"tiles of {' and '.join(f'{width} x {height}' for width, height in sizes)} pixels"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
