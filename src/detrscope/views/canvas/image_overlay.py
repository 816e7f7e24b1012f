"""Pixels with boxes and labels on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from detrscope.views.canvas.colours import BLACK, Colour, unit
from detrscope.views.canvas.drawing import DPI, Drawing
from detrscope.views.canvas.text import text_size, write


@dataclass(frozen=True)
class Box:
    """A rectangle's outline, drawn inwards from its edge."""

    xyxy: tuple[float, float, float, float]  # pixels
    colour: Colour
    width: int


@dataclass(frozen=True)
class Label:
    """A line of text on a plate; no plate where `colour` is None."""

    text: str
    xy: tuple[float, float]  # left and top of the plate in pixels
    size: int  # height of the type in pixels
    colour: Colour | None = None
    ink: Colour = BLACK


@dataclass(frozen=True)
class ImageOverlay(Drawing):
    """Pixels with boxes and labels: painted pixel by pixel, or as vectors over the image in SVG and PDF."""

    background: np.ndarray  # uint8 [H, W, 3]
    boxes: Sequence[Box] = field(default=())
    labels: Sequence[Label] = field(default=())

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [H, W, 3]."""
        image = Image.fromarray(self.background)
        draw = ImageDraw.Draw(image)
        for box in self.boxes:
            x0, y0, x1, y1 = _whole_pixels(box)
            width = min(box.width, (min(x1 - x0, y1 - y0) + 1) // 2)  # Pillow goes outside with more
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=box.colour, width=width)
        for label in self.labels:
            (x, y), (width, height) = label.xy, text_size(label.text, label.size)
            x, y = round(x), round(y)
            if label.colour is not None:
                draw.rectangle((x, y, x + width - 1, y + height - 1), fill=label.colour)
            middle = (x + label.size // 4, y + height // 2)
            write(draw, middle, label.text, label.size, label.ink)
        return np.asarray(image)

    def figure(self) -> Figure:
        """The picture as a matplotlib figure whose data coordinates are its pixels."""
        height, width = self.background.shape[:2]
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(self.background, extent=(0, width, height, 0), interpolation="none")
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        points = 72 / DPI  # of one pixel
        for box in self.boxes:
            x0, y0, x1, y1 = _whole_pixels(box)
            inset, size = box.width / 2, (x1 - x0 - box.width, y1 - y0 - box.width)
            edge, line = unit(box.colour), box.width * points
            axes.add_patch(
                Rectangle((x0 + inset, y0 + inset), *size, fill=False, edgecolor=edge, linewidth=line)
            )
        for label in self.labels:
            (x, y), (w, h) = label.xy, text_size(label.text, label.size)
            if label.colour is not None:
                axes.add_patch(Rectangle((x, y), w, h, facecolor=unit(label.colour), edgecolor="none"))
            axes.text(
                x + label.size // 4,
                y + h / 2,
                label.text,
                color=unit(label.ink),
                fontsize=label.size * points,
                va="center_baseline",
                parse_math=False,
            )
        return figure


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size: uint8 [H, W, 3] -> uint8 [height, width, 3]."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def enlarged(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """A map at another size, linear between the middles of its cells: float [H, W] -> float [height, width]."""
    plane = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """The box on the pixel grid, never thinner than its own outline."""
    x0, y0, x1, y1 = (round(value) for value in box.xyxy)
    return x0, y0, max(x1, x0 + box.width), max(y1, y0 + box.width)
