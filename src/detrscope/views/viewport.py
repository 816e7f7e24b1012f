"""Images under maps, boxes and points; coordinates are pixels of the original image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, QueryAttention
from detrscope.core.geometry import Geometry
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level
from detrscope.views.canvas import WHITE, Panel, PixelFigure, Scale, resize_drawing, text_colour_on, text_size
from detrscope.views.label_placement import MAX_OVERLAP, place_labels
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import QueryPrediction

RED = (255, 0, 0)
ROOM = 1.35  # size of a zoomed window, relative to what it must show
MIN_ZOOM, MAX_ZOOM = (
    0.2,
    0.75,
)  # smallest part of the image that a zoomed window shows; the largest worth zooming
LARGE = 330  # pixels across: a larger panel has thicker outlines
ATTENDED = 0.1  # of the greatest weight: cells with less do not count as attended
MAX_ASPECT = 2.6  # a longer image is squeezed to this ratio of its sides

Extent = tuple[float, float, float, float]  # x0, y0, x1, y1
Rect = tuple[float, float, float, float]  # x, y, width, height in pixels of a figure


@dataclass(frozen=True)
class Viewport:
    """An image and the window of it that panels show.

    Attributes:
        image: uint8 [H, W, 3].
        extent: where its corners lie.
        window: the visible part.
        smooth: maps over it are interpolated between cell centres; otherwise each cell has one colour.
    """

    image: np.ndarray
    extent: Extent
    window: Extent
    smooth: bool = True
    _resized: dict[tuple[int, int], tuple[np.ndarray, Extent]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(
        cls, source: TraceData | AttentionMap | QueryAttention, options: ViewOptions = DEFAULT_OPTIONS
    ) -> Viewport:
        """Return the whole original image where a trace holds it, else the model's input."""
        g, smooth = source.geometry, not options.cells
        if isinstance(source, TraceData) and source.original is not None:
            whole = (0.0, 0.0, float(g.width), float(g.height))
            return cls(_channels_last(source.original), whole, whole, smooth)
        return cls(_channels_last(source.image), g.crop_xyxy, g.crop_xyxy, smooth)

    def size(self, side: float) -> tuple[int, int]:
        """Return width and height of a panel with about the area of a square of that side."""
        x0, y0, x1, y1 = self.window
        ratio = min(max((x1 - x0) / (y1 - y0), 1 / MAX_ASPECT), MAX_ASPECT)
        return round(side * ratio**0.5), round(side / ratio**0.5)

    def size_within(self, width: float, height: float) -> tuple[float, float]:
        """Return width and height of the largest panel of the window's shape that fits a rectangle."""
        x0, y0, x1, y1 = self.window
        scale = min(width / (x1 - x0), height / (y1 - y0))
        return (x1 - x0) * scale, (y1 - y0) * scale

    def panel(
        self,
        figure: PixelFigure,
        corner: tuple[float, float],
        size: tuple[float, float],
        *,
        grey: bool = False,
    ) -> Panel:
        """Return a panel that shows the window; pale grey to lie under a map."""
        panel = figure.panel(*corner, *size, self.window, self.smooth)
        pixels, extent = self._visible((max(1, round(size[0])), max(1, round(size[1]))))
        panel.image(pixels, extent, grey=grey)
        return panel

    def panel_in(self, figure: PixelFigure, rect: Rect, *, grey: bool = False) -> Panel:
        """Return a panel in the middle of a rectangle, as large as fits."""
        x, y, width, height = rect
        across, down = self.size_within(width, height)
        corner = (x + (width - across) / 2, y + (height - down) / 2)
        return self.panel(figure, corner, (across, down), grey=grey)

    def zoomed_to(self, points: np.ndarray) -> Viewport:
        """Return a closer viewport of the same shape around points [n, 2]; itself where that is not worth it."""
        low, high = np.array(self.window[:2]), np.array(self.window[2:])
        inside = points[((points >= low) & (points <= high)).all(1)]
        if not len(inside):
            return self
        middle = (inside.max(0) + inside.min(0)) / 2
        share = max(((inside.max(0) - inside.min(0)) * ROOM / (high - low)).max(), MIN_ZOOM)
        if share > MAX_ZOOM:
            return self
        half = (high - low) * share / 2
        middle = np.clip(middle, low + half, high - half)
        (left, top), (right, bottom) = (middle - half).tolist(), (middle + half).tolist()
        return self.of_window((left, top, right, bottom))

    def of_window(self, window: Extent) -> Viewport:
        """Return a viewport of the same image that shows another window of it."""
        return Viewport(self.image, self.extent, window, self.smooth)

    def _visible(self, size: tuple[int, int]) -> tuple[np.ndarray, Extent]:
        """Return the visible pixels at a size and their extent; cached, as a figure shows them many times."""
        if size in self._resized:
            return self._resized[size]
        height, width = self.image.shape[:2]
        x0, y0, x1, y1 = self.extent
        across, down = width / (x1 - x0), height / (y1 - y0)
        left, top = max(0, int((self.window[0] - x0) * across)), max(0, int((self.window[1] - y0) * down))
        right, bottom = math.ceil((self.window[2] - x0) * across), math.ceil((self.window[3] - y0) * down)
        part = self.image[top:bottom, left:right]
        last = left + part.shape[1], top + part.shape[0]
        extent = (x0 + left / across, y0 + top / down, x0 + last[0] / across, y0 + last[1] / down)
        wide = (extent[2] - extent[0]) / (self.window[2] - self.window[0])
        tall = (extent[3] - extent[1]) / (self.window[3] - self.window[1])
        fine = resize_drawing(part, max(1, round(size[0] * wide)), max(1, round(size[1] * tall)))
        return self._resized.setdefault(size, (fine, extent))


def viewport_cells(attention: AttentionMap) -> tuple[np.ndarray, Extent]:
    """Return the cells of a map that lie on the image, and their extent; of several levels, on the finest grid."""
    values, g = attention.values, attention.geometry
    level = Level(*values.shape)
    inside = g.inside(level)
    rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
    return values[:rows, :columns].float().numpy(), viewport_cell_extent(g, level, rows, columns)


def viewport_cell_extent(g: Geometry, level: Level, rows: int, columns: int) -> Extent:
    """Return the extent of the first rows and columns of cells of a level."""
    across, down = g.scale
    x0, y0 = g.crop_xyxy[:2]
    cell = g.padded[1] / level.width / across, g.padded[0] / level.height / down
    return x0, y0, x0 + columns * cell[0], y0 + rows * cell[1]


def viewport_of_attention(attention: AttentionMap) -> np.ndarray:
    """Return the corners of all attended cells, [n, 2]: what a zoomed viewport must show."""
    values, (x0, y0, x1, y1) = viewport_cells(attention)
    rows, columns = np.nonzero(values > ATTENDED * values.max())
    sides = (x1 - x0) / values.shape[1], (y1 - y0) / values.shape[0]
    cells = np.stack([columns, rows], axis=1)
    return np.asarray(np.concatenate([cells, cells + 1]) * sides + (x0, y0))


def zoom_note(zoomed: Viewport, whole: Viewport) -> str:
    """Return the window in words, for a caption; empty where it is the whole image."""
    x0, y0, x1, y1 = zoomed.window
    return "" if zoomed is whole else f"zoomed in: x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}"


def draw_map(
    panel: Panel, attention: AttentionMap, scale: Scale | None = None, *, transparent: bool = True
) -> None:
    """Draw a map; without a scale on one of its own, with the greatest weight written in the corner.

    A scale of its own begins at even attention where the image shows through, else at 0.
    """
    values, extent = viewport_cells(attention)
    own = Scale.from_even if transparent else Scale.from_zero
    panel.heatmap(values, scale or own(values), extent, transparent=transparent)
    if scale is None:
        corner_text(panel, short_number(float(values.max())))


def draw_boxes(
    panel: Panel,
    queries: Sequence[QueryPrediction],
    texts: Sequence[str] = (),
    size: int = 12,
    max_overlap: float = MAX_OVERLAP,
) -> None:
    """Draw predicted boxes in their colours, the first on top, each with its text where there is room.

    Args:
        panel: where to draw.
        queries: the boxes.
        texts: a text for each; empty draws none.
        size: pixels, of the texts.
        max_overlap: a text is left out where more than this share of it would lie under others.
    """
    for prediction in reversed(queries):
        panel.box(prediction.box_xyxy, prediction.colour, width=2 if panel.width < LARGE else 3)
    if not texts or not queries:
        return
    scale, (x0, y0, x1, y1) = panel.scale, panel.window
    boxes = (np.array([prediction.box_xyxy for prediction in queries]) - (x0, y0, x0, y0)) * scale
    frame = (0.0, 0.0, (x1 - x0) * scale, (y1 - y0) * scale)
    boxes = boxes.clip(0, (frame[2], frame[3]) * 2)
    corners = place_labels(boxes, [text_size(text, size) for text in texts], frame, max_overlap)
    for prediction, text, corner in zip(queries, texts, corners, strict=True):
        if text and corner is not None:
            xy = (corner[0] / scale + x0, corner[1] / scale + y0)
            panel.label(
                text,
                xy,
                size=size,
                background=prediction.colour,
                text_colour=text_colour_on(prediction.colour),
            )


def draw_ground_truth(panel: Panel, boxes_xyxy: Tensor | None, width: float = 2.0) -> None:
    """Draw annotated boxes [M, 4], white and dashed; nothing where they are not known."""
    for box in [] if boxes_xyxy is None else boxes_xyxy.tolist():
        panel.box(box, WHITE, dashed=True, width=width)


def draw_point(panel: Panel, point: tuple[float, float] | None) -> None:
    """Draw a red circle around the point whose attention is shown, if there is one."""
    if point is not None:
        panel.circle(point, RED)


def draw_numbered_point(panel: Panel, point: tuple[float, float], text: str) -> None:
    """Draw a red point with its number beside it."""
    panel.dots(np.array([point]), RED, 11)
    width, height = (side / panel.scale for side in text_size(text, 13))
    offset = 8 / panel.scale
    x = point[0] + offset if point[0] + offset + width < panel.window[2] else point[0] - offset - width
    panel.label(
        text, (x, max(panel.window[1], point[1] - height)), size=13, background=WHITE, text_colour=RED
    )


def corner_text(panel: Panel, text: str, size: int = 11) -> None:
    """Write a small text in the lower left corner."""
    height = text_size(text, size)[1] / panel.scale
    x, y = panel.window[0] + 3 / panel.scale, panel.window[3] - height - 3 / panel.scale
    panel.label(text, (x, y), size=size, background=WHITE)


def short_number(number: float) -> str:
    """Return a number with two digits, without powers of ten where possible."""
    return f"{number:.0f}" if 100 <= abs(number) < 1e6 else f"{number:.2g}"


def _channels_last(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().cpu().numpy()
