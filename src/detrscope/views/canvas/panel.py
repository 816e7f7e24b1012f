"""A rectangle of a figure that shows part of an image, and what lies over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from detrscope.views.canvas.colours import BLACK, WHITE, Colour, Scale, colour_range
from detrscope.views.canvas.drawing import DPI, enlarged, resize_drawing
from detrscope.views.canvas.text import TEXT_SIZE, text_size

POINTS = 72 / DPI  # of a pixel
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green and blue
MIN_GREY, MAX_GREY = 98, 213  # 0..255: range of an image under a map, so that the map stands out
MIN_PERCENTILE, MAX_PERCENTILE = 1, 99  # of the image, mapped to that range
MAX_CONTRAST = 1.3  # contrast is not raised further: an even image stays even
FULL_SIZE = 300  # pixels across: in smaller panels, markers are smaller
RIM_OPACITY = 0.45  # of the dark rim around outlines

Extent = tuple[float, float, float, float]  # x0, y0, x1, y1


class Panel:
    """Rectangle of a figure; coordinates are those of its window, x to the right and y down.

    All panels of a figure share one set of axes whose unit is a pixel: axes of their own would cost more time than
    everything that is drawn on them.

    Args:
        axes: shared axes of the figure.
        corner: left and top of the panel in pixels of the figure.
        width: width of the panel in pixels.
        height: height of the panel in pixels.
        window: x0, y0, x1, y1 of the visible part of the image.
        smooth: interpolate maps linearly between cell centres; otherwise each cell has one colour.
    """

    def __init__(
        self,
        axes: Axes,
        corner: tuple[float, float],
        width: float,
        height: float,
        window: Extent,
        smooth: bool = True,
    ) -> None:
        self._smooth = smooth
        self._axes, self._corner = axes, np.array(corner, dtype=float)
        self.width, self.height, self.window = width, height, window
        x0, y0, x1, y1 = window
        self._pixels_per_unit = np.array([width / (x1 - x0), height / (y1 - y0)])
        self._clip = Rectangle(corner, width, height, transform=axes.transData)

    @property
    def scale(self) -> float:
        """Pixels of the figure per unit of the window."""
        return float(self._pixels_per_unit[0])

    def image(self, pixels: np.ndarray, extent: Extent | None = None, *, grey: bool = False) -> None:
        """Show an image.

        Args:
            pixels: uint8 [H, W, 3].
            extent: window coordinates of its corners; None is the whole window.
            grey: show it pale and without colour, to lie under a map.
        """
        extent = extent or self.window
        fine = resize_drawing(pixels, *self._size(extent))
        if grey:
            fine = np.repeat(pale_grey(fine)[..., None], 3, axis=2)
        self._show(fine, extent)

    def heatmap(
        self, values: np.ndarray, scale: Scale, extent: Extent | None = None, *, transparent: bool = True
    ) -> None:
        """Show a map in colours.

        Args:
            values: float [H, W], one for each cell.
            scale: colour scale.
            extent: window coordinates of the corners of the map; None is the whole window.
            transparent: transparent at zero, to lie over an image.
        """
        extent = extent or self.window
        fine = enlarged(values, *self._size(extent)) if self._smooth else values
        colours = scale.translucent(fine) if transparent else scale.opaque(fine)
        self._show((255 * colours).round().astype(np.uint8), extent)

    def box(self, xyxy: Sequence[float], colour: Colour, *, width: float = 2.0, dashed: bool = False) -> None:
        """Draw an outline, clipped to the window, with a dark rim to be seen on any image."""
        low = self._corner + width / 2
        high = self._corner + np.array([self.width, self.height]) - width / 2
        (x0, y0), (x1, y1) = np.clip(self._to_figure(np.reshape(xyxy, (2, 2))), low, high).tolist()
        for edge, line, opacity in ((BLACK, width + 2, RIM_OPACITY), (colour, width, 1.0)):
            self._axes.add_patch(
                Rectangle(
                    (x0, y0),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor=(*colour_range(edge), opacity),
                    linewidth=line * POINTS,
                    linestyle=(0, (4, 3)) if dashed else "-",
                    joinstyle="miter",
                    clip_path=self._clip,
                )
            )

    def dots(
        self,
        xy: np.ndarray,
        colours: np.ndarray | Colour,
        sizes: np.ndarray | float,
        *,
        marker: str = "o",
        rim: Colour = WHITE,
    ) -> None:
        """Draw markers; those outside the window are left out.

        Args:
            xy: [n, 2].
            colours: float [n, 4] in 0..1, or one colour.
            sizes: diameters in pixels.
            marker: matplotlib marker.
            rim: colour of the rim, which has the opacity of its marker.
        """
        visible = (xy >= self.window[:2]).all(-1) & (xy <= self.window[2:]).all(-1)
        rgba = np.array([(*colour_range(colours), 1.0)]) if isinstance(colours, tuple) else colours
        rgba = np.broadcast_to(rgba, (len(xy), 4))[visible]
        red, green, blue = colour_range(rim)
        x, y = self._to_figure(xy[visible]).T
        self._axes.scatter(
            x,
            y,
            s=(np.broadcast_to(sizes, len(xy))[visible] * POINTS) ** 2,
            c=rgba,
            marker=marker,
            edgecolors=[(red, green, blue, opacity) for opacity in rgba[:, 3].tolist()],
            linewidths=POINTS,
            zorder=4,
        )

    def circle(self, xy: Sequence[float], colour: Colour, size: float = 16) -> None:
        """Draw a circle with a dark rim around a point; smaller and thinner in a small panel."""
        part = min(1.0, max(self.width, self.height) / FULL_SIZE)
        for line, edge in ((3.6, BLACK), (2.0, colour)):
            self._marker(
                xy,
                marker="o",
                markersize=size * part * POINTS,
                markerfacecolor="none",
                markeredgewidth=line * part**0.5 * POINTS,
                markeredgecolor=colour_range(edge),
                zorder=5,
            )

    def cross(self, xy: Sequence[float], colour: Colour, size: float = 22) -> None:
        """Draw a cross with a dark rim, above all markers: a reference point; none outside the window."""
        point = np.array(xy)
        if (point < self.window[:2]).any() or (point > self.window[2:]).any():
            return
        for line, edge in ((5.0, BLACK), (2.6, colour)):
            self._marker(
                xy,
                marker="+",
                markersize=size * POINTS,
                markeredgewidth=line * POINTS,
                color=colour_range(edge),
                zorder=5,
            )

    def lines(self, starts: np.ndarray, ends: np.ndarray, colour: Colour, width: float = 1.0) -> None:
        """Draw straight lines: [n, 2], [n, 2]."""
        pairs = np.stack([self._to_figure(starts), self._to_figure(ends)], axis=1)  # [n, 2, 2]
        self._axes.add_collection(
            LineCollection(
                list(pairs),
                colors=[colour_range(colour)],
                linewidths=width * POINTS,
                zorder=2,
                clip_path=self._clip,
            ),
            autolim=False,
        )

    def label(
        self,
        text: str,
        xy: Sequence[float],
        *,
        size: int = TEXT_SIZE,
        background: Colour | None = None,
        text_colour: Colour = BLACK,
    ) -> None:
        """Write a line of text; `xy` is the left and top of its background."""
        width, height = text_size(text, size)
        x, y = self._to_figure(np.array(xy)).tolist()
        if background is not None:
            self._axes.add_patch(
                Rectangle(
                    (x, y), width, height, facecolor=colour_range(background), edgecolor="none", zorder=6
                )
            )
        self._axes.text(
            x + size // 4,
            y + height / 2,
            text,
            color=colour_range(text_colour),
            fontsize=size * POINTS,
            va="center_baseline",
            parse_math=False,
            zorder=7,
        )

    def _marker(self, xy: Sequence[float], **style: Any) -> None:
        self._axes.plot(*self._to_figure(np.array(xy))[:, None], **style)

    def _to_figure(self, xy: np.ndarray) -> np.ndarray:
        """Return window coordinates as pixels of the figure: [..., 2] -> [..., 2]."""
        return np.asarray(self._corner + (xy - np.array(self.window[:2])) * self._pixels_per_unit)

    def _size(self, extent: Extent) -> tuple[int, int]:
        """Return width and height of an extent in pixels of the figure."""
        across, down = (np.array(extent[2:]) - np.array(extent[:2])) * self._pixels_per_unit
        return max(1, round(across)), max(1, round(down))

    def _show(self, pixels: np.ndarray, extent: Extent) -> None:
        (x0, y0), (x1, y1) = self._to_figure(np.reshape(extent, (2, 2))).tolist()
        image = self._axes.imshow(
            pixels, extent=(x0, x1, y1, y0), interpolation="nearest", aspect="auto", zorder=1
        )
        image.set_clip_path(self._clip)


def pale_grey(image: np.ndarray) -> np.ndarray:
    """Return an image in pale greys that use the whole range: uint8 [H, W, 3] -> uint8 [H, W]."""
    light = image.astype(np.float32) @ LUMA
    return pale_levels(light, *np.percentile(light, (MIN_PERCENTILE, MAX_PERCENTILE)))


def pale_levels(light: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return pale greys for levels 0..255, of which `low` to `high` get the whole range: float -> uint8."""
    contrast = min(MAX_CONTRAST, (MAX_GREY - MIN_GREY) / max(high - low, 1.0))
    middle = (low + high) / 2
    grey = (MIN_GREY + MAX_GREY) / 2 + contrast * (light - middle)
    return np.asarray(grey.clip(MIN_GREY, MAX_GREY), np.uint8)
