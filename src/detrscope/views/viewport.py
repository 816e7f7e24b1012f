"""The picture that was looked at, as it lies under maps, boxes and points; places are pixels of the original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from detrscope.core.attention_map import AttentionMap, QueryAttention
from detrscope.core.geometry import Geometry
from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level
from detrscope.views.canvas import WHITE, Panel, PixelFigure, Scale, ink_on, resized, text_size
from detrscope.views.label_placement import place_labels
from detrscope.views.options import DEFAULT_OPTIONS, ShownQuery, ViewOptions

RED = (255, 0, 0)
ROOM = 1.35  # of a window, in parts of what it must hold
CLOSEST, WORTH = 0.2, 0.75  # parts of the picture that a closer window shows at least and at most
LARGE = 330  # pixels across: a larger panel has thicker outlines
FAINT = 0.1  # of the greatest weight: cells with less are not looked at
SLIM = 2.6  # a picture longer than this times its width is shown as if it were not


@dataclass(frozen=True)
class Viewport:
    """Made by `of`; draws on panels of a sheet."""

    image: np.ndarray  # uint8 [H, W, 3]
    extent: tuple[float, float, float, float]  # where its corners lie
    window: tuple[float, float, float, float]  # what is shown
    smooth: bool = True  # whether maps over it are, or show their cells
    _parts: dict[tuple[int, int], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, seen: TraceData | AttentionMap | QueryAttention, choice: ViewOptions = DEFAULT_OPTIONS
    ) -> Viewport:
        """The original where a trace kept it, else what the model saw of it."""
        original = seen.original if isinstance(seen, TraceData) else None
        g = seen.geometry
        whole = (0.0, 0.0, float(g.width), float(g.height))
        if original is not None:
            return cls(_pixels(original), whole, whole, not choice.cells)
        return cls(_pixels(seen.image), g.crop_xyxy, g.crop_xyxy, not choice.cells)

    def size(self, side: float) -> tuple[int, int]:
        """Width and height of a panel about as large as a square of that side."""
        x0, y0, x1, y1 = self.window
        ratio = min(max((x1 - x0) / (y1 - y0), 1 / SLIM), SLIM)
        return round(side * ratio**0.5), round(side / ratio**0.5)

    def panel(
        self, sheet: PixelFigure, place: tuple[float, float], size: tuple[int, int], *, grey: bool = False
    ) -> Panel:
        """A panel with the picture."""
        panel = sheet.panel(*place, *size, self.window, self.smooth)
        part, extent = self._part(size)
        panel.picture(part, extent, grey=grey)
        return panel

    def _part(self, size: tuple[int, int]) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """What of the picture is seen at a size, and where its corners lie; kept, as a sheet shows it many times."""
        if size in self._parts:
            return self._parts[size]
        height, width = self.image.shape[:2]
        x0, y0, x1, y1 = self.extent
        across, down = width / (x1 - x0), height / (y1 - y0)
        left, top = max(0, int((self.window[0] - x0) * across)), max(0, int((self.window[1] - y0) * down))
        right, bottom = math.ceil((self.window[2] - x0) * across), math.ceil((self.window[3] - y0) * down)
        part = self.image[top:bottom, left:right]
        last = left + part.shape[1], top + part.shape[0]
        extent = (x0 + left / across, y0 + top / down, x0 + last[0] / across, y0 + last[1] / down)
        shown = (extent[2] - extent[0]) / (self.window[2] - self.window[0])
        tall = (extent[3] - extent[1]) / (self.window[3] - self.window[1])
        fine = resized(part, max(1, round(size[0] * shown)), max(1, round(size[1] * tall)))
        return self._parts.setdefault(size, (fine, extent))

    def near(self, places: np.ndarray) -> Viewport:
        """Closer to some places [n, 2] of the picture, with room around them, the window keeping its shape."""
        low, high = np.array(self.window[:2]), np.array(self.window[2:])
        inside = places[((places >= low) & (places <= high)).all(1)]
        if not len(inside):
            return self
        middle = (inside.max(0) + inside.min(0)) / 2
        share = max(((inside.max(0) - inside.min(0)) * ROOM / (high - low)).max(), CLOSEST)
        if share > WORTH:
            return self
        half = (high - low) * share / 2
        middle = np.clip(middle, low + half, high - half)
        (left, top), (right, bottom) = (middle - half).tolist(), (middle + half).tolist()
        return Viewport(self.image, self.extent, (left, top, right, bottom), self.smooth)


def attended_region(attention: AttentionMap) -> np.ndarray:
    """Corners of the cells that hold more than next to nothing, places [n, 2]: what a closer look must show."""
    values, (x0, y0, x1, y1) = plane(attention)
    rows, columns = np.nonzero(values > FAINT * values.max())
    sides = (x1 - x0) / values.shape[1], (y1 - y0) / values.shape[0]
    cells = np.stack([columns, rows], axis=1)
    return np.concatenate([cells, cells + 1]) * sides + (x0, y0)


def zoom_note(near: Viewport, whole: Viewport) -> str:
    """What of the picture is seen, for a caption; nothing where it is all of it."""
    x0, y0, x1, y1 = near.window
    return "" if near is whole else f"seen from near: x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}"


def plane(attention: AttentionMap) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The cells of a map that lie on the picture, and where their corners lie in pixels of the original.

    Of several levels, the mass in each cell of the finest.
    """
    values, g = attention.values, attention.geometry
    level = Level(*values.shape)
    inside = g.inside(level)
    rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
    return values[:rows, :columns].float().numpy(), corners(g, level, rows, columns)


def corners(g: Geometry, level: Level, rows: int, columns: int) -> tuple[float, float, float, float]:
    """Where the first rows and columns of cells of a map lie: x0, y0, x1, y1."""
    across, down = g.scale
    x0, y0 = g.crop_xyxy[:2]
    cell = g.padded[1] / level.width / across, g.padded[0] / level.height / down
    return x0, y0, x0 + columns * cell[0], y0 + rows * cell[1]


def overlay(panel: Panel, attention: AttentionMap, scale: Scale | None = None, *, veil: bool = True) -> float:
    """Show a map, on a scale of its own where none is given; returns its greatest number."""
    values, extent = plane(attention)
    panel.heat(values, scale or Scale.amounts(values), extent, veil=veil)
    return float(values.max())


def outline(panel: Panel, shown: Sequence[ShownQuery], texts: Sequence[str] = (), size: int = 12) -> None:
    """Boxes in the colours of their classes, the best on top, each with its text where there is room."""
    for one in reversed(shown):
        panel.box(one.box_xyxy, one.colour, width=2 if panel.width < LARGE else 3)
    if not texts:
        return
    scale, (x0, y0, x1, y1) = panel.scale, panel.window
    boxes = (np.array([one.box_xyxy for one in shown]) - (x0, y0, x0, y0)) * scale
    frame = (0.0, 0.0, (x1 - x0) * scale, (y1 - y0) * scale)
    boxes = boxes.clip(0, (frame[2], frame[3]) * 2)
    places = place_labels(boxes, [text_size(text, size) for text in texts], frame)
    for one, text, place in zip(shown, texts, places, strict=True):
        if text and place is not None:
            xy = (place[0] / scale + x0, place[1] / scale + y0)
            panel.label(text, xy, size=size, plate=one.colour, ink=ink_on(one.colour))


def corner_text(panel: Panel, text: str, size: int = 11) -> None:
    """A small text in the lower left corner."""
    height = text_size(text, size)[1] / panel.scale
    x, y = panel.window[0] + 3 / panel.scale, panel.window[3] - height - 3 / panel.scale
    panel.label(text, (x, y), size=size, plate=WHITE)


def mark(panel: Panel, point: tuple[float, float]) -> None:
    """A red ring around a point whose attention is shown."""
    panel.ring(point, RED)


def number(panel: Panel, point: tuple[float, float], text: str) -> None:
    """A red point with its number beside it."""
    panel.dots(np.array([point]), RED, 11)
    width, height = (side / panel.scale for side in text_size(text, 13))
    away = 8 / panel.scale
    x = point[0] + away if point[0] + away + width < panel.window[2] else point[0] - away - width
    panel.label(text, (x, max(panel.window[1], point[1] - height)), size=13, plate=WHITE, ink=RED)


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().cpu().numpy()
