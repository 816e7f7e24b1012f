"""A rectangle of a sheet in which a picture is seen, and what lies over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from detrscope.views.canvas.colours import BLACK, WHITE, Colour, Scale, unit
from detrscope.views.canvas.drawing import DPI
from detrscope.views.canvas.image_overlay import enlarged, resized
from detrscope.views.canvas.text import TEXT, text_size

POINTS = 72 / DPI  # of a pixel
LIGHT = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue
PALE, BRIGHT = 98, 213  # 0..255: the greys under a map that the darkest and the brightest of a picture become
BLACKEST, WHITEST = 1, 99  # percentiles that count as that
BOLDEST = 1.3  # contrast is not raised further: an even picture stays even
ROOMY = 300  # pixels across: in smaller panels, marks are smaller
RIM = 0.45  # opacity of the dark rim around outlines

Extent = tuple[float, float, float, float]  # x0, y0, x1, y1


class Panel:
    """Seen is a window of a picture; places are in its coordinates, x to the right and y down.

    All panels of a sheet share one set of axes whose unit is a pixel: axes of their own would cost more time than
    everything that is drawn on them.

    Args:
        board: the axes of the sheet.
        corner: left and top of the panel, pixels of the board.
        width: of the panel in pixels.
        height: of the panel in pixels.
        window: x0, y0, x1, y1 of what is seen.
        smooth: whether maps are linear between the middles of cells, where they show the number itself; otherwise even
            in each cell.
    """

    def __init__(
        self,
        board: Axes,
        corner: tuple[float, float],
        width: float,
        height: float,
        window: Extent,
        smooth: bool = True,
    ) -> None:
        self._smooth = smooth
        self._board, self._corner = board, np.array(corner, dtype=float)
        self.width, self.height, self.window = width, height, window
        x0, y0, x1, y1 = window
        self._pixels = np.array(
            [width / (x1 - x0), height / (y1 - y0)]
        )  # of the sheet in a unit of the window
        self._clip = Rectangle(corner, width, height, transform=board.transData)

    @property
    def scale(self) -> float:
        """Pixels of the sheet for each unit of the window."""
        return float(self._pixels[0])

    def picture(self, image: np.ndarray, extent: Extent | None = None, *, grey: bool = False) -> None:
        """Show a picture: uint8 [H, W, 3].

        Args:
            image: the pixels.
            extent: where its corners lie; the whole window where None.
            grey: paled and without colour, to lie under a map.
        """
        extent = extent or self.window
        fine = resized(image, *self._size(extent))
        if grey:
            fine = np.repeat(_paled(fine)[..., None], 3, axis=2)
        self._image(fine, extent)

    def heat(
        self,
        values: np.ndarray,
        scale: Scale,
        extent: Extent | None = None,
        *,
        veil: bool = True,
    ) -> None:
        """Show a map in colours: float [H, W].

        Args:
            values: one number for each cell.
            scale: how numbers become colours.
            extent: where the corners of the map lie; the whole window where None.
            veil: see-through where nothing is, to lie over a picture.
        """
        extent = extent or self.window
        fine = enlarged(values, *self._size(extent)) if self._smooth else values
        colours = scale.veil(fine) if veil else scale.colours(fine)
        self._image((255 * colours).round().astype(np.uint8), extent)

    def box(self, xyxy: Sequence[float], colour: Colour, *, width: float = 2.0, dashed: bool = False) -> None:
        """An outline that stays inside the window, with a dark rim to be seen on anything."""
        low = self._corner + width / 2
        high = self._corner + np.array([self.width, self.height]) - width / 2
        (x0, y0), (x1, y1) = np.clip(self._place(np.reshape(xyxy, (2, 2))), low, high).tolist()
        for edge, line, opacity in ((BLACK, width + 2, RIM), (colour, width, 1.0)):
            self._board.add_patch(
                Rectangle(
                    (x0, y0),
                    x1 - x0,
                    y1 - y0,
                    fill=False,
                    edgecolor=(*unit(edge), opacity),
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
        """Marks at places [n, 2]; colours [n, 4] or one for all; sizes in pixels across; outside the window none.

        The rim of a mark is as see-through as the mark.
        """
        seen = (xy >= self.window[:2]).all(-1) & (xy <= self.window[2:]).all(-1)
        inks = np.array([(*unit(colours), 1.0)]) if isinstance(colours, tuple) else colours
        inks = np.broadcast_to(inks, (len(xy), 4))[seen]
        red, green, blue = unit(rim)
        x, y = self._place(xy[seen]).T
        self._board.scatter(
            x,
            y,
            s=(np.broadcast_to(sizes, len(xy))[seen] * POINTS) ** 2,
            c=inks,
            marker=marker,
            edgecolors=[(red, green, blue, opacity) for opacity in inks[:, 3].tolist()],
            linewidths=POINTS,
            zorder=4,
        )

    def ring(self, xy: Sequence[float], colour: Colour, size: float = 16) -> None:
        """A circle with a dark rim around a place that stays visible; smaller and thinner in a small panel."""
        part = min(1.0, max(self.width, self.height) / ROOMY)
        for line, ink in ((3.6, BLACK), (2.0, colour)):
            self._board.plot(
                *self._place(np.array(xy))[:, None],
                marker="o",
                markersize=size * part * POINTS,
                markerfacecolor="none",
                markeredgewidth=line * part**0.5 * POINTS,
                markeredgecolor=unit(ink),
                zorder=5,
            )

    def cross(self, xy: Sequence[float], colour: Colour, size: float = 22) -> None:
        """A cross with a dark rim, under all dots: a reference point; outside the window none."""
        place = np.array(xy)
        if (place < self.window[:2]).any() or (place > self.window[2:]).any():
            return
        for line, ink in ((5.0, BLACK), (2.6, colour)):
            self._board.plot(
                *self._place(place)[:, None],
                marker="+",
                markersize=size * POINTS,
                markeredgewidth=line * POINTS,
                color=unit(ink),
                zorder=3,
            )

    def lines(self, starts: np.ndarray, ends: np.ndarray, colour: Colour, width: float = 1.0) -> None:
        """Straight lines from places to places: [n, 2], [n, 2]."""
        pairs = np.stack([self._place(starts), self._place(ends)], axis=1)  # [n, 2, 2]
        self._board.add_collection(
            LineCollection(
                list(pairs), colors=[unit(colour)], linewidths=width * POINTS, zorder=2, clip_path=self._clip
            ),
            autolim=False,
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
        width, height = text_size(text, size)
        x, y = self._place(np.array(xy)).tolist()
        if plate is not None:
            self._board.add_patch(
                Rectangle((x, y), width, height, facecolor=unit(plate), edgecolor="none", zorder=6)
            )
        self._board.text(
            x + size // 4,
            y + height / 2,
            text,
            color=unit(ink),
            fontsize=size * POINTS,
            va="center_baseline",
            parse_math=False,
            zorder=7,
        )

    def _place(self, xy: np.ndarray) -> np.ndarray:
        """From places to pixels of the board: [..., 2] -> [..., 2]."""
        return self._corner + (xy - np.array(self.window[:2])) * self._pixels

    def _size(self, extent: Extent) -> tuple[int, int]:
        """Width and height of an extent in pixels of the sheet."""
        across, down = (np.array(extent[2:]) - np.array(extent[:2])) * self._pixels
        return max(1, round(across)), max(1, round(down))

    def _image(self, pixels: np.ndarray, extent: Extent) -> None:
        (x0, y0), (x1, y1) = self._place(np.reshape(extent, (2, 2))).tolist()
        drawn = self._board.imshow(
            pixels, extent=(x0, x1, y1, y0), interpolation="nearest", aspect="auto", zorder=1
        )
        drawn.set_clip_path(self._clip)


def _paled(image: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] in pale greys uint8 [H, W] that use all the room there is."""
    light = image.astype(np.float32) @ LIGHT
    low, high = np.percentile(light, (BLACKEST, WHITEST))
    contrast = min(BOLDEST, (BRIGHT - PALE) / max(high - low, 1.0))
    middle = (low + high) / 2
    return ((PALE + BRIGHT) / 2 + contrast * (light - middle)).clip(PALE, BRIGHT).astype(np.uint8)
