"""Sampling points of deformable attention over the image: by level, by head, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detrscope.core.attention_map import AttentionMap
from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.records import DeformableRecord
from detrscope.core.trace_data import Kind, TraceData
from detrscope.core.types import Level
from detrscope.lens.captions import caption, caption_model_and_source
from detrscope.lens.maps import map_of_rows
from detrscope.views.canvas import BLACK, PALETTE, WHITE, Panel, PixelFigure, Scale
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH
from detrscope.views.grid import PanelGrid, panel_size, rows_and_columns
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import AttentionRow, QueryPrediction, selected_row
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_map, draw_point, zoom_note

SIZES = (7, 9, 12, 14, 16)  # pixels across, finest level first
MARKERS = ("o", "s", "D", "^", "v")
REFERENCE_COLOUR = PALETTE[1]
FOOTER = 26  # pixels, for the legend
SMALL_MARKERS = 0.6  # size of markers in an overview whose points lie close together


@dataclass(frozen=True)
class SamplingPoints:
    """Sampling points of one query at one site, in pixels of the original."""

    xy: np.ndarray  # [h, P, 2]
    weights: np.ndarray  # [h, P]
    levels: np.ndarray  # [P]
    reference_xy: np.ndarray  # [2]
    reference_xyxy: tuple[float, float, float, float] | None  # where points are placed in a box

    def select(self, head: int | None = None, level: int | None = None) -> SamplingPoints:
        """Return the points of one head, or of one level."""
        heads = slice(None) if head is None else [head]
        chosen = np.ones(len(self.levels), bool) if level is None else self.levels == level
        return SamplingPoints(
            self.xy[heads][:, chosen],
            self.weights[heads][:, chosen],
            self.levels[chosen],
            self.reference_xy,
            self.reference_xyxy,
        )

    @property
    def region(self) -> np.ndarray:
        """All points and the corners of the reference box, [n, 2]: what a zoomed viewport must show."""
        box = np.array(self.reference_xyxy or self.reference_xy).reshape(-1, 2)
        return np.concatenate([self.xy.reshape(-1, 2), box, self.reference_xy[None]])

    def count_outside(self, window: Sequence[float]) -> int:
        """Return how many points lie outside a window."""
        inside = (self.xy >= np.array(window[:2])) & (self.xy <= np.array(window[2:]))
        return int((~inside.all(-1)).sum())


def sampling_points(trace: TraceData, site: str, row: int) -> SamplingPoints:
    """Return the sampling points of one row of a deformable site."""
    record = trace.record(site)
    assert isinstance(record, DeformableRecord)
    g = trace.geometry
    reference = record.reference[0, row, 0].float()  # [2 or 4], relative to the finest level
    box = None
    if len(reference) == 4:
        corners = g.points_of(cxcywh_to_xyxy(reference).view(2, 2)).flatten().tolist()
        box = (corners[0], corners[1], corners[2], corners[3])
    return SamplingPoints(
        xy=g.points_of(record.points[0, :, row].float()).numpy(),
        weights=record.weights[0, :, row].float().numpy(),
        levels=np.array(record.point_levels),
        reference_xy=g.points_of(reference[:2]).numpy(),
        reference_xyxy=box,
    )


@dataclass(frozen=True)
class PointsPanel:
    """One panel: points of some layers, heads or levels, and what the query predicts there."""

    title: str
    points: list[SamplingPoints]
    predictions: list[QueryPrediction]
    overview: bool = False  # shows the whole image, also where the others are zoomed in
    map: AttentionMap | None = None  # the same attention splatted on the tokens, instead of the points


@dataclass(frozen=True)
class PointsData(ViewData):
    """Sampling points of one row, panel by panel."""

    panels: list[PointsPanel]
    point: tuple[float, float] | None
    levels: list[Level]
    points: list[SamplingPoints] = field(metadata=HIDDEN)  # all of them: give the colour scale and the zoom
    viewport: Viewport = field(metadata=HIDDEN)
    zoomed: Viewport = field(metadata=HIDDEN)


def point_levels_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> PointsData:
    """Collect the sampling points of all levels together, each level alone, and their splatted map.

    Raises:
        NotInTrace: there is no deformable attention.
        UserError: no detections.
    """
    row = _deformable_row(trace, options)
    ((layer, site),) = row.sites
    points, boxes = _layer_points(trace, row, options)[layer], row.boxes(trace, layer)
    levels = np.unique(points.levels).tolist()
    attention = map_of_rows(trace, options.selection(site, (row.row,), row.point), row.name)
    first = "all levels" if options.level is None else f"level {levels[0]}"
    panels = [
        PointsPanel(first, [points], boxes, overview=True),
        PointsPanel("splatted on the tokens", [points], boxes, overview=True, map=attention),
    ]
    if len(levels) > 1:
        panels += [PointsPanel(f"level {level}", [points.select(level=level)], boxes) for level in levels]
    heading = f"Sampling points of {row.name} by level"
    data = _points_data(trace, row, options, heading, panels, [points])
    return replace(data, caption=f"{data.caption} Splatted: {attention.caption}.")


def point_heads_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> PointsData:
    """Collect the sampling points of each head.

    Raises:
        NotInTrace: there is no deformable attention.
        UserError: no detections.
    """
    row = _deformable_row(trace, options)
    ((layer, site),) = row.sites
    points = sampling_points(trace, site, row.row).select(level=options.level_of(trace))
    count = len(points.weights)
    heads = range(count) if options.head is None else [options.head % count]
    boxes = row.boxes(trace, layer)
    panels = [PointsPanel(f"head {head}", [points.select(head)], boxes) for head in heads]
    return _points_data(trace, row, options, f"Sampling points of {row.name} by head", panels, [points])


def point_layers_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> PointsData:
    """Collect the sampling points of all layers together, and of each layer alone.

    Raises:
        NotInTrace: there is no deformable attention.
        UserError: no detections.
    """
    row = _deformable_row(trace, options, every_layer=True)
    layers = _layer_points(trace, row, options)
    panels = [
        PointsPanel(f"layer {layer}", [points], row.boxes(trace, layer)) for layer, points in layers.items()
    ]
    if len(panels) > 1:
        boxes = row.boxes(trace, row.sites[-1][0])
        panels.insert(0, PointsPanel("all layers", [*layers.values()], boxes, overview=True))
    heading = f"Sampling points of {row.name} by layer"
    return _points_data(trace, row, options, heading, panels, list(layers.values()))


def draw_points(data: PointsData) -> PixelFigure:
    """Draw each panel's points on one colour scale; an overview shows where zoomed panels lie."""
    scale = Scale.from_zero(*(points.weights for points in data.points), label="weight of a point")
    rows, columns = rows_and_columns(len(data.panels), 4)
    size = panel_size(data.viewport, columns, 400, COLOUR_BAR_WIDTH)
    grid = PanelGrid(size, columns, rows, lines=2, scale=scale, footer=FOOTER)
    figure = grid.figure(data.heading, data.caption, Scale.marker_colours)
    _legend(figure, grid.height - FOOTER / 2 + 4, data)
    is_zoomed = data.zoomed is not data.viewport
    for i, shown in enumerate(data.panels):
        if shown.map is not None:
            subtitle = f"sums to {shown.map.mass:.3f}"
        else:
            total = sum(points.weights.size for points in shown.points)
            outside = sum(points.count_outside(data.viewport.window) for points in shown.points)
            subtitle = f"{total} points" + (f", {outside} outside the image" if outside else "")
        viewport = data.viewport if shown.overview else data.zoomed
        panel = grid.panel(figure, viewport, *divmod(i, columns), shown.title, subtitle, grey=True)
        if shown.overview and is_zoomed:
            panel.box(data.zoomed.window, WHITE, width=1.2)
        draw_point(panel, data.point)
        if shown.map is not None:
            draw_map(panel, shown.map)
        else:
            for points in shown.points:
                draw_markers(panel, points, scale, SMALL_MARKERS if shown.overview and is_zoomed else 1.0)
        draw_boxes(panel, shown.predictions)
    return figure


draw_point_levels = draw_point_heads = draw_point_layers = draw_points


def _deformable_row(trace: TraceData, options: ViewOptions, every_layer: bool = False) -> AttentionRow:
    def is_deformable(kind: Kind) -> bool:
        return any(isinstance(trace.records.get(site), DeformableRecord) for site in trace.sites_of(kind))

    return selected_row(trace, options, every_layer, is_deformable)


def _layer_points(trace: TraceData, row: AttentionRow, options: ViewOptions) -> dict[int, SamplingPoints]:
    head, level = options.head, options.level_of(trace)
    return {layer: sampling_points(trace, site, row.row).select(head, level) for layer, site in row.sites}


def _points_data(
    trace: TraceData,
    row: AttentionRow,
    options: ViewOptions,
    heading: str,
    panels: list[PointsPanel],
    points: list[SamplingPoints],
) -> PointsData:
    """Compose the caption, and zoom in where all points lie close together."""
    sites, level = [site for _, site in row.sites], options.level_of(trace)
    count = trace.record(sites[-1]).shape[0]
    heads = f"all {count} heads" if options.head is None else f"head {options.head % count} of {count}"
    viewport = Viewport.of(trace, options)
    boxes = [prediction.box_xyxy for layer, _ in row.sites for prediction in row.boxes(trace, layer)]
    corners = np.array(boxes).reshape(-1, 2)
    zoomed = viewport.zoomed_to(np.concatenate([*(part.region for part in points), corners]))
    return PointsData(
        heading=heading,
        caption=caption(
            caption_model_and_source(trace),
            f"deformable attention at {', '.join(sites)}, {row.name}, {heads}, "
            + ("all levels" if level is None else f"level {level}"),
            "softmax over the points of a head, all levels together",
            "colour: the weight of a point; shape and size: its level; points outside the map sample zeros",
            zoom_note(zoomed, viewport),
            row.note,
        ),
        panels=panels,
        point=row.point,
        levels=list(trace.levels),
        points=points,
        viewport=viewport,
        zoomed=zoomed,
    )


def draw_markers(panel: Panel, points: SamplingPoints, scale: Scale, size: float) -> None:
    """Draw points, fine levels over coarse ones and the strongest on top, over the reference point and box."""
    if points.reference_xyxy is not None:
        panel.box(points.reference_xyxy, REFERENCE_COLOUR, dashed=True)
    for level in np.unique(points.levels)[::-1].tolist():  # large markers of coarse levels below small ones
        chosen = points.levels == level
        xy, weights = points.xy[:, chosen].reshape(-1, 2), points.weights[:, chosen].reshape(-1)
        order = np.argsort(weights, kind="stable")
        marker, pixels = _marker(level)
        panel.dots(xy[order], scale.marker_colours(weights[order]), size * pixels, marker=marker, rim=BLACK)
    panel.cross(points.reference_xy.tolist(), REFERENCE_COLOUR, 22 * size)


def _marker(level: int) -> tuple[str, int]:
    return MARKERS[min(level, len(MARKERS) - 1)], SIZES[min(level, len(SIZES) - 1)]


def _legend(figure: PixelFigure, y: float, data: PointsData) -> None:
    """Write a line with the meaning of each marker."""
    x: float = 20
    points = data.points[-1]
    for level in np.unique(points.levels).tolist():
        height, width = data.levels[level]
        text = f"level {level} ({height}x{width} tokens)"
        x = figure.legend_entry(x, y, *_marker(level), (150, 150, 150), text)
    text = "reference point" + (" and box" if points.reference_xyxy else "")
    figure.legend_entry(x, y, "+", 14, REFERENCE_COLOUR, text)
