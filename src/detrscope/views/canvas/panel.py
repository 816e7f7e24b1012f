"""A rectangle of a sheet in which a picture is seen, and what lies over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from detrscope.views.canvas.colours import BLACK, WHITE, Colour, Scale, unit
from detrscope.views.canvas.lettering import TEXT, text_size
from detrscope.views.canvas.picture import DPI
from detrscope.views.canvas.scene import enlarged, resized

POINTS = 72 / DPI  # of a pixel
GREY = (0.45, 0.55)  # of a picture under a map: share that is kept, and white that is mixed in
OUTLINE = 2.0  # pixels

Extent = tuple[float, float, float, float]  # x0, y0, x1, y1


class Panel:
    """Seen is a window of a picture; places are in its coordinates, x to the right and y down.

    Attributes:
        width: of the panel in pixels of the sheet.
        height: of the panel in pixels of the sheet.
        window: x0, y0, x1, y1 of what is seen.
    """

    def __init__(self, axes: Axes, width: float, height: float, window: Extent) -> None:
        self._axes = axes
        self.width, self.height, self.window = width, height, window
        x0, y0, x1, y1 = window
        axes.set(xlim=(x0, x1), ylim=(y1, y0), aspect="auto", autoscale_on=False)
        axes.axis("off")

    @property
    def scale(self) -> float:
        """Pixels of the sheet for each unit of the window."""
        return self.width / (self.window[2] - self.window[0])

    def picture(self, image: np.ndarray, extent: Extent | None = None, *, grey: bool = False) -> None:
        """Show a picture: uint8 [H, W, 3].

        Args:
            image: the pixels.
            extent: where its corners lie; the whole window where None.
            grey: paled and without colour, to lie under a map.
        """
        extent = extent or self.window
        fine = resized(image, *self._pixels(extent))
        if grey:
            pale = fine.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
            pale = 255 * GREY[1] * 0.55 + pale * GREY[0] + 255 * GREY[1] * 0.15
            fine = np.repeat(pale.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        self._image(fine, extent)

    def heat(
        self,
        values: np.ndarray,
        scale: Scale,
        extent: Extent | None = None,
        *,
        veil: bool = True,
        smooth: bool = True,
    ) -> None:
        """Show a map in colours: float [H, W].

        Args:
            values: one number for each cell.
            scale: how numbers become colours.
            extent: where the corners of the map lie; the whole window where None.
            veil: see-through where nothing is, to lie over a picture.
            smooth: linear between the middles of cells, where it shows the number itself; otherwise even in each cell.
        """
        extent = extent or self.window
        fine = enlarged(values, *self._pixels(extent)) if smooth else values
        self._image(scale.veil(fine) if veil else scale.colours(fine), extent)

    def box(
        self, xyxy: Sequence[float], colour: Colour, *, width: float = OUTLINE, dashed: bool = False
    ) -> None:
        """An outline that stays inside the window, with a dark rim to be seen on anything."""
        inset = width / 2 / self.scale
        x0, x1 = np.clip((xyxy[0], xyxy[2]), self.window[0] + inset, self.window[2] - inset).tolist()
        y0, y1 = np.clip((xyxy[1], xyxy[3]), self.window[1] + inset, self.window[3] - inset).tolist()
        for edge, line, opacity in ((BLACK, width + 2, 0.45), (colour, width, 1.0)):
            self._axes.add_patch(
                Rectangle(
                    (x0, y0),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor=(*unit(edge), opacity),
                    linewidth=line * POINTS,
                    linestyle=(0, (4, 3)) if dashed else "-",
                    joinstyle="miter",
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
        rim_width: float = 1.0,
    ) -> None:
        """Marks at places [n, 2]; colours [n, 4] or one for all; sizes in pixels across; outside the window none."""
        inside = (xy >= self.window[:2]).all(-1) & (xy <= self.window[2:]).all(-1)
        one = isinstance(colours, tuple)
        self._axes.scatter(
            xy[inside, 0],
            xy[inside, 1],
            s=(np.broadcast_to(sizes, len(xy))[inside] * POINTS) ** 2,
            c=[unit(colours)] if isinstance(colours, tuple) else colours[inside],
            marker=marker,
            edgecolors=[unit(rim)],
            linewidths=rim_width * POINTS,
            zorder=3 if not one else 4,
        )

    def cross(self, xy: Sequence[float], colour: Colour, size: float = 16) -> None:
        """A cross with a dark rim: a reference point."""
        for line, ink in ((4.5, BLACK), (2.2, colour)):
            self._axes.plot(
                xy[0],
                xy[1],
                marker="+",
                markersize=size * POINTS,
                markeredgewidth=line * POINTS,
                color=unit(ink),
                zorder=5,
            )

    def lines(self, starts: np.ndarray, ends: np.ndarray, colour: Colour, width: float = 1.0) -> None:
        """Straight lines from places to places: [n, 2], [n, 2]."""
        pairs = np.stack([starts, ends], axis=1)  # [n, 2, 2]
        self._axes.add_collection(
            LineCollection(list(pairs), colors=[unit(colour)], linewidths=width * POINTS, zorder=2)
        )

    def label(
        self,
        text: str,
        xy: Sequence[float],
        *,
        size: int = TEXT,
        plate: Colour | None = None,
        ink: Colour = BLACK,
    ) -> None:
        """A line of text; `xy` is the left and top of its plate."""
        width, height = (side / self.scale for side in text_size(text, size))
        x, y = xy
        if plate is not None:
            self._axes.add_patch(
                Rectangle((x, y), width, height, facecolor=unit(plate), edgecolor="none", zorder=6)
            )
        self._axes.text(
            x + size // 4 / self.scale,
            y + height / 2,
            text,
            color=unit(ink),
            fontsize=size * POINTS,
            va="center_baseline",
            parse_math=False,
            zorder=7,
        )

    def frame(self, colour: Colour = (160, 160, 160)) -> None:
        """A thin line around the panel."""
        x0, y0, x1, y1 = self.window
        self._axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=unit(colour), linewidth=POINTS)
        )

    def _pixels(self, extent: Extent) -> tuple[int, int]:
        """Width and height of an extent in pixels of the sheet."""
        x0, y0, x1, y1 = self.window
        across, down = self.width / (x1 - x0), self.height / (y1 - y0)
        return max(1, round((extent[2] - extent[0]) * across)), max(1, round((extent[3] - extent[1]) * down))

    def _image(self, pixels: np.ndarray, extent: Extent) -> None:
        x0, y0, x1, y1 = extent
        self._axes.imshow(pixels, extent=(x0, x1, y1, y0), interpolation="nearest", aspect="auto")
