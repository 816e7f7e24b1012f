"""What the encoder relates: the self-attention of some places of the picture, set around it."""

from __future__ import annotations

import math

import numpy as np

from detrscope.core.attention_map import AttentionMap, Selection
from detrscope.core.trace_data import TraceData
from detrscope.lens.maps import map_of_rows
from detrscope.views.canvas import PixelFigure
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.captions import OWN_PEAK, caption, heads, model, over, short, sums
from detrscope.views.grid import GAP, NARROWEST, TITLE_LINE
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions, centre, predictions, site_of
from detrscope.views.viewport import Viewport, attended_region, corner_text, mark, number, overlay

POINTS = 6  # where none are chosen
APART = 0.14  # of the diagonal: points nearer to each other would show the same
SIDE = 230  # pixels, of a map
WIDE = 880  # pixels, of the picture in the middle at most
SPOTS = (
    *((0.25, 0.25), (0.75, 0.75), (0.75, 0.25), (0.25, 0.75), (0.5, 0.5)),
    *((0.5, 0.1), (0.5, 0.9), (0.1, 0.5), (0.9, 0.5)),
)  # parts of width and height


def draw_encoder(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """The picture in the middle with numbered red points; around it, where the token at each point looks.

    Raises:
        NotInTrace: the model has no encoder attention, or it was not recorded.
    """
    _, site = site_of(trace, "encoder.self", choice)
    points = choice.points or reference_points(trace, choice)
    maps = [_map_at(trace, site, point, choice) for point in points]
    frame = Viewport.of(trace, choice)
    near = [
        frame.near(np.append(attended_region(one), [point], 0))
        for one, point in zip(maps, points, strict=True)
    ]
    from_near = all(one is not frame for one in near)
    if not from_near:  # all, or none
        near = [frame] * len(near)
    size = frame.size(SIDE)
    rows = -(-len(points) // 2)
    height = rows * (TITLE_LINE + size[1] + GAP) - GAP
    large = _fitting(size, (WIDE, height - TITLE_LINE))
    at_left = MARGIN + (size[0] + GAP if len(points) > 1 else 0)
    width = at_left + large[0] + GAP + size[0] + MARGIN
    which = f" of level {choice.from_level % len(trace.levels)}" if len(trace.levels) > 1 else ""
    about = caption(
        model(trace),
        f"self-attention at {site}, {heads(trace, site, choice)}",
        over(trace, site, choice),
        sums(maps),
        OWN_PEAK + ", given in its corner",
        f"red: whose attention it is, the token{which} whose cell holds the point",
        "maps are seen from near" if from_near else "",
    )
    sheet = PixelFigure(
        max(width, NARROWEST), height, "What places of the picture look at in the encoder", about
    )
    middle = (at_left, TITLE_LINE + (height - TITLE_LINE - large[1]) / 2)
    picture = frame.panel(sheet, middle, large)
    for i, (point, attention) in enumerate(zip(points, maps, strict=True)):
        number(picture, point, str(i + 1))
        on_left = i < rows and len(points) > 1
        x = MARGIN if on_left else at_left + large[0] + GAP
        y = (i if on_left else i - rows * (len(points) > 1)) * (TITLE_LINE + size[1] + GAP)
        sheet.text(f"{i + 1}: token at ({point[0]:.0f}, {point[1]:.0f})", x, y)
        around = near[i].panel(sheet, (x, y + TITLE_LINE), size, grey=True)
        corner_text(around, short(overlay(around, attention)))
        mark(around, point)
    return sheet


def reference_points(trace: TraceData, choice: ViewOptions) -> list[tuple[float, float]]:
    """Middles of what was found, best first, then spots all over the picture, none of them close together."""
    found = trace.detections(choice.threshold)
    queries = choice.queries or tuple(dict.fromkeys(found.query_ids.tolist()))
    x0, y0, x1, y1 = trace.geometry.crop_xyxy
    wanted = [centre(one.box_xyxy, trace) for one in predictions(trace, queries)[: POINTS - 2]]
    wanted += [(x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in SPOTS]
    chosen: list[tuple[float, float]] = []
    for point in wanted:
        if all(math.dist(point, other) > APART * math.dist((x0, y0), (x1, y1)) for other in chosen):
            chosen.append(point)
    return chosen[:POINTS]


def _map_at(trace: TraceData, site: str, point: tuple[float, float], choice: ViewOptions) -> AttentionMap:
    token = trace.token_at(point, choice.from_level)
    selection = Selection(site, (token,), choice.head, choice.merge, choice.level, point)
    return map_of_rows(trace, selection, f"token at ({point[0]:g}, {point[1]:g})")


def _fitting(size: tuple[int, int], most: tuple[int, int]) -> tuple[int, int]:
    """As large as fits, of the same shape."""
    scale = min(most[0] / size[0], most[1] / size[1])
    return round(size[0] * scale), round(size[1] * scale)
