"""A sheet: panels, charts and colour scales placed by the pixel, a heading above and a caption below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from detrscope.views.canvas.colours import BLACK, Colour, Scale, unit
from detrscope.views.canvas.drawing import DPI, Drawing
from detrscope.views.canvas.panel import POINTS, Extent, Panel
from detrscope.views.canvas.plot import Chart, painted
from detrscope.views.canvas.text import NAME, TEXT, TITLE, text_size, wrapped

MARGIN = 14  # pixels around everything
LINE = 1.4  # of a line of text, in heights of the type
INK: Colour = (85, 85, 85)  # of captions
UNDER = 175  # 0..255: the grey that a see-through scale is drawn over, as over a picture

Paint = Callable[[Scale, np.ndarray], np.ndarray]
Align = Literal["left", "center", "right"]


def strips(width: int, heading: str, caption: str) -> tuple[int, int]:
    """Pixels that a heading and a caption take above and below a sheet of that width."""
    inner = width - 2 * MARGIN
    above = [round(len(wrapped(heading, TITLE, inner)) * TITLE * LINE) + MARGIN // 2] if heading else []
    below = [round(len(wrapped(caption, TEXT, inner)) * TEXT * LINE) + MARGIN // 2] if caption else []
    return MARGIN + sum(above), MARGIN + sum(below)


class Row(Protocol):
    """Numbers that can be a line of a table."""

    def to_row(self) -> dict[str, Any]:
        """By column."""


class PixelFigure(Drawing):
    """Nothing on it overlaps by chance: whoever draws says where each thing is, in pixels of the body.

    Args:
        width: of the sheet in pixels.
        height: of its body, between heading and caption.
        heading: one line or more above.
        caption: what is shown and how, below.

    Attributes:
        numbers: what is shown, as rows of a table, where a view gives them.
    """

    def __init__(self, width: int, height: int, heading: str = "", caption: str = "") -> None:
        self.heading, self.caption = heading, caption
        self.numbers: Sequence[Row] = ()
        self._above, below = strips(width, heading, caption)
        self.width, self.height = width, self._above + height + below
        self._figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI)
        self._board = self._figure.add_axes((0, 0, 1, 1))
        self._board.set(
            xlim=(0, self.width), ylim=(self.height - self._above, -self._above), autoscale_on=False
        )
        self._board.axis("off")
        inner = width - 2 * MARGIN
        y: float = MARGIN - self._above
        for line in wrapped(heading, TITLE, inner):
            self.text(line, MARGIN, y, size=TITLE)
            y += TITLE * LINE
        y = height + MARGIN // 2
        for line in wrapped(caption, TEXT, inner):
            self.text(line, MARGIN, y, size=TEXT, colour=INK)
            y += TEXT * LINE

    def panel(
        self, x: float, y: float, width: float, height: float, window: Extent, smooth: bool = True
    ) -> Panel:
        """A place for a picture, of which the window is seen, and for maps, smooth or cell by cell."""
        return Panel(self._board, (x, y), width, height, window, smooth)

    def chart(self, x: float, y: float, width: float, height: float) -> Chart:
        """A chart; numbers and names of its axes go outside of the rectangle, to the left, below and above."""
        return Chart(self._axes(x, y, width, height))

    def text(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: int = NAME,
        colour: Colour = BLACK,
        align: Align = "left",
        upright: bool = False,
    ) -> None:
        """A line of text; x is its left, middle or right and y its top; upright it reads upwards, centred at y."""
        self._board.text(
            x,
            y if upright else y + size / 2,
            text,
            fontsize=size * POINTS,
            color=unit(colour),
            ha="center" if upright else align,
            va="center" if upright else "center_baseline",
            rotation=90 if upright else 0,
            parse_math=False,
        )

    def mark(self, x: float, y: float, shape: str, size: float, colour: Colour, text: str) -> float:
        """A mark and what it stands for; x is its middle, y the middle of the line; returns where the next may be."""
        self._board.plot(
            x,
            y,
            marker=shape,
            markersize=size * POINTS,
            markeredgewidth=2.6 * POINTS if shape == "+" else 0,
            color=unit(colour),
        )
        self.text(text, x + 14, y - TEXT / 2, size=TEXT, colour=INK)
        return x + 14 + text_size(text, TEXT)[0] + 22

    def scale(self, x: float, y: float, height: float, scale: Scale, paint: Paint = Scale.veil) -> None:
        """A colour scale with its numbers at its right and its unit beside them; `SCALE` pixels wide in all.

        Args:
            x: its left.
            y: its top.
            height: of the scale.
            scale: what it shows.
            paint: how its colours were laid on: as a veil, as they are or as inks.
        """
        axes = self._axes(x, y, BAR, height)
        steps = np.linspace(scale.low, scale.high, 256)[::-1, None]  # [256, 1]
        colours = paint(scale, steps)
        solid = colours[..., :3] * colours[..., 3:] + UNDER / 255 * (1 - colours[..., 3:])
        axes.imshow(solid, extent=(0, 1, scale.low, scale.high), aspect="auto", interpolation="bilinear")
        axes.set(xlim=(0, 1), ylim=(scale.low, scale.high), xticks=[])
        axes.yaxis.tick_right()
        axes.tick_params(labelsize=TEXT * POINTS, length=3, width=0.7)
        axes.locator_params(axis="y", nbins=max(2, int(height // 45)))
        axes.spines[:].set_linewidth(0.6)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        self.text(scale.label, x + SCALE - TEXT, y + height / 2, size=TEXT, colour=INK, upright=True)

    def figure(self) -> Figure:
        """The matplotlib figure."""
        return self._figure

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [H, W, 3]."""
        return painted(self._figure)

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        bottom = self.height - self._above - y - height
        return self._figure.add_axes(
            (x / self.width, bottom / self.height, width / self.width, height / self.height)
        )


BAR = 14  # pixels across a colour scale
SCALE = BAR + text_size("0.0000", TEXT)[0] + 2 * TEXT  # with its numbers and its unit
