"""Encoder self-attention of some points, set around the image."""

from __future__ import annotations

import math
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
from detrscope.lens.maps import map_of_rows
from detrscope.views.canvas import PixelFigure
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.grid import GAP, MIN_WIDTH, TITLE_HEIGHT
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import (
    detected_queries,
    select_box_centre,
    select_recorded_site,
    selected_level_text,
    shown_predictions,
)
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import (
    Viewport,
    draw_map,
    draw_numbered_point,
    draw_point,
    viewport_of_attention,
)

MAX_POINTS = 6  # where none are chosen
MIN_DISTANCE = 0.14  # of the diagonal: points nearer to each other would show the same
SIDE = 230  # pixels, of a map
MAX_CENTRE_WIDTH = 880  # pixels, of the image in the middle
SPOTS = (
    *((0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75), (0.5, 0.5)),
    *((0.5, 0.1), (0.5, 0.9), (0.1, 0.5), (0.9, 0.5)),
)  # parts of width and height


@dataclass(frozen=True)
class EncoderMaps(ViewData):
    """Points, x, y in pixels of the original, and the map of the encoder token at each."""

    points: list[tuple[float, float]]
    maps: list[AttentionMap]
    viewport: Viewport = field(metadata=HIDDEN)
    zoomed: list[Viewport] = field(metadata=HIDDEN)


def encoder_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> EncoderMaps:
    """Compute the self-attention of the encoder tokens at some points, by default on detections and between.

    Raises:
        NotInTrace: the model has no encoder attention, or it was not recorded.
    """
    _, site = select_recorded_site(trace, trace.token_kind, options)
    points = list(options.points) or _default_points(trace, options)
    maps = []
    for point in points:
        selection = options.selection(site, (trace.token_at(point, options.from_level, site),), point)
        maps.append(map_of_rows(trace, selection, f"token at ({point[0]:g}, {point[1]:g})"))
    viewport, selection = Viewport.of(trace, options), options.selection(site)
    zoomed = [
        viewport.zoomed_to(np.append(viewport_of_attention(attention), [point], 0))
        for attention, point in zip(maps, points, strict=True)
    ]
    is_zoomed = all(zoom is not viewport for zoom in zoomed)  # all maps are zoomed, or none
    return EncoderMaps(
        heading=f"{trace.token_kind.split('.')[0].capitalize()} self-attention of image tokens",
        caption=caption(
            caption_model_and_source(trace),
            f"self-attention at {site}, {caption_heads(trace, selection)}",
            caption_normalisation(trace, selection),
            caption_weight_sums(maps),
            OWN_PEAK,
            f"red: the point whose attention is shown, that of the token{selected_level_text(trace, options, site)}"
            " whose cell holds it",
            "maps are zoomed in" if is_zoomed else "",
        ),
        points=points,
        maps=maps,
        viewport=viewport,
        zoomed=zoomed if is_zoomed else [viewport] * len(maps),
    )


def draw_encoder(data: EncoderMaps) -> PixelFigure:
    """Draw the image with numbered red points in the middle, and around it the map of the token at each point."""
    count, viewport = len(data.points), data.viewport
    size = viewport.size(SIDE)
    rows = -(-count // 2)
    height = rows * (TITLE_HEIGHT + size[1] + GAP) - GAP
    scale = min(MAX_CENTRE_WIDTH / size[0], (height - TITLE_HEIGHT) / size[1])
    centre = round(size[0] * scale), round(size[1] * scale)
    centre_left = MARGIN + (size[0] + GAP if count > 1 else 0)
    width = centre_left + centre[0] + GAP + size[0] + MARGIN
    figure = PixelFigure(max(width, MIN_WIDTH), height, data.heading, data.caption)
    image = viewport.panel(
        figure, (centre_left, TITLE_HEIGHT + (height - TITLE_HEIGHT - centre[1]) / 2), centre
    )
    for i, (point, attention) in enumerate(zip(data.points, data.maps, strict=True)):
        draw_numbered_point(image, point, str(i + 1))
        on_left = i < rows and count > 1
        x = MARGIN if on_left else centre_left + centre[0] + GAP
        y = (i if on_left else i - rows * (count > 1)) * (TITLE_HEIGHT + size[1] + GAP)
        figure.text(f"{i + 1}: token at ({point[0]:.0f}, {point[1]:.0f})", x, y)
        panel = data.zoomed[i].panel(figure, (x, y + TITLE_HEIGHT), size, grey=True)
        draw_map(panel, attention)
        draw_point(panel, point)
    return figure


def _default_points(trace: TraceData, options: ViewOptions) -> list[tuple[float, float]]:
    """Return centres of detections, best first, then spots all over the image, none of them close together."""
    queries = options.queries or detected_queries(trace, options.threshold)
    x0, y0, x1, y1 = trace.geometry.crop_xyxy
    candidates = [
        select_box_centre(prediction.box_xyxy, trace)
        for prediction in shown_predictions(trace, queries)[: MAX_POINTS - 2]
    ]
    candidates += [(x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in SPOTS]
    chosen: list[tuple[float, float]] = []
    for point in candidates:
        if all(math.dist(point, other) > MIN_DISTANCE * math.dist((x0, y0), (x1, y1)) for other in chosen):
            chosen.append(point)
    return chosen[:MAX_POINTS]
