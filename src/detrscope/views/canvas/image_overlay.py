"""An image with boxes and labels on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from detrscope.views.canvas.colours import BLACK, Colour, colour_range
from detrscope.views.canvas.drawing import DPI, Drawing
from detrscope.views.canvas.text import draw_text, text_size


@dataclass(frozen=True)
class Box:
    """Outline of a rectangle, drawn inwards from its edge."""

    xyxy: tuple[float, float, float, float]  # pixels
    colour: Colour
    width: int


@dataclass(frozen=True)
class Label:
    """Line of text on a filled rectangle; without one where `background` is None."""

    text: str
    xy: tuple[float, float]  # left and top of the rectangle in pixels
    size: int  # font size in pixels
    background: Colour | None = None
    text_colour: Colour = BLACK


@dataclass(frozen=True)
class ImageOverlay(Drawing):
    """An image with boxes and labels: painted pixel by pixel, or as vectors over the image in SVG and PDF."""

    background: np.ndarray  # uint8 [H, W, 3]
    boxes: Sequence[Box] = field(default=())
    labels: Sequence[Label] = field(default=())

    def pixels(self) -> np.ndarray:
        """Return the pixels as uint8 [H, W, 3]."""
        pixels = self.background.copy()
        for box in self.boxes:
            x0, y0, x1, y1 = (max(0, value) for value in _on_pixel_grid(box))
            width = min(box.width, (min(x1 - x0, y1 - y0) + 1) // 2)
            for rows in (slice(y0, y0 + width), slice(max(y0, y1 - width), y1)):
                pixels[rows, x0:x1] = box.colour
            for columns in (slice(x0, x0 + width), slice(max(x0, x1 - width), x1)):
                pixels[y0:y1, columns] = box.colour
        for label in self.labels:
            x, y = round(label.xy[0]), round(label.xy[1])
            if label.background is None:
                pixels = _with_text(pixels, x, y, label)
                continue
            text = _label_pixels(label.text, label.size, label.background, label.text_colour)
            text = text[max(0, -y) :, max(0, -x) :]
            part = pixels[max(0, y) : max(0, y) + len(text), max(0, x) : max(0, x) + text.shape[1]]
            part[...] = text[: part.shape[0], : part.shape[1]]
        return pixels

    def figure(self) -> Figure:
        """Return the matplotlib figure, whose data coordinates are the pixels of the image."""
        height, width = self.background.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(self.background, extent=(0, width, height, 0), interpolation="none")
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        points = 72 / DPI  # of one pixel
        for box in self.boxes:
            x0, y0, x1, y1 = _on_pixel_grid(box)
            inset, size = box.width / 2, (x1 - x0 - box.width, y1 - y0 - box.width)
            edge, line = colour_range(box.colour), box.width * points
            axes.add_patch(
                Rectangle((x0 + inset, y0 + inset), *size, fill=False, edgecolor=edge, linewidth=line)
            )
        for label in self.labels:
            (x, y), (w, h) = label.xy, text_size(label.text, label.size)
            if label.background is not None:
                axes.add_patch(
                    Rectangle((x, y), w, h, facecolor=colour_range(label.background), edgecolor="none")
                )
            axes.text(
                x + label.size // 4,
                y + h / 2,
                label.text,
                color=colour_range(label.text_colour),
                fontsize=label.size * points,
                va="center_baseline",
                parse_math=False,
            )
        return figure


@lru_cache(maxsize=1024)  # the labels of a video come again and again
def _label_pixels(text: str, size: int, background: Colour, colour: Colour) -> np.ndarray:
    """Return a line of text on its rectangle: uint8 [height, width, 3]."""
    width, height = text_size(text, size)
    tile = np.empty((height, width, 3), np.uint8)
    tile[...] = background
    return _with_text(tile, 0, 0, Label(text, (0, 0), size, text_colour=colour))


def _with_text(pixels: np.ndarray, x: int, y: int, label: Label) -> np.ndarray:
    """Return pixels with a line of text whose rectangle begins at x, y."""
    image = Image.fromarray(pixels)
    middle = (x + label.size // 4, y + text_size(label.text, label.size)[1] // 2)
    draw_text(ImageDraw.Draw(image), middle, label.text, label.size, label.text_colour)
    return np.array(image)


def _on_pixel_grid(box: Box) -> tuple[int, int, int, int]:
    """Return the corners in whole pixels, never closer than the width of the outline."""
    x0, y0, x1, y1 = (round(value) for value in box.xyxy)
    return x0, y0, max(x1, x0 + box.width), max(y1, y0 + box.width)
