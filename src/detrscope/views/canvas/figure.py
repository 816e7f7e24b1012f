"""A figure with absolute pixel layout: panels, charts and colour bars, a heading above and a caption below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from detrscope.views.canvas.colours import BLACK, Colour, Scale, colour_range
from detrscope.views.canvas.drawing import DPI, Drawing, rendered
from detrscope.views.canvas.panel import POINTS, Extent, Panel
from detrscope.views.canvas.plot import Chart
from detrscope.views.canvas.text import HEADING_SIZE, TEXT_SIZE, TITLE_SIZE, text_size, wrapped

MARGIN = 14  # pixels around everything
LINE_HEIGHT = 1.4  # of a line of text, in font sizes
CAPTION_COLOUR: Colour = (85, 85, 85)
BAR_BACKGROUND = 175  # 0..255: grey under a translucent colour bar, as under a map over an image

Paint = Callable[[Scale, np.ndarray], np.ndarray]
Align = Literal["left", "center", "right"]


def header_and_footer(width: int, heading: str, caption: str) -> tuple[int, int]:
    """Return the heights in pixels of the heading and the caption of a figure of some width."""
    inner = width - 2 * MARGIN
    heights = []
    for text, size in ((heading, HEADING_SIZE), (caption, TEXT_SIZE)):
        lines = len(wrapped(text, size, inner))
        heights.append(MARGIN + (round(lines * size * LINE_HEIGHT) + MARGIN // 2 if text else 0))
    return heights[0], heights[1]


class Numbers(Protocol):
    """Numbers that a figure shows."""

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""


class PixelFigure(Drawing):
    """Figure whose parts are placed in pixels of its body, so that nothing overlaps by chance.

    Args:
        width: width of the figure in pixels.
        height: height of its body, between heading and caption.
        heading: text above.
        caption: what is shown and how, below.

    Attributes:
        numbers: what a view of a trace shows, apart from its drawing.
    """

    def __init__(self, width: int, height: int, heading: str = "", caption: str = "") -> None:
        self.heading, self.caption = heading, caption
        self.numbers: Numbers | None = None
        self._above, below = header_and_footer(width, heading, caption)
        self.width, self.height = width, self._above + height + below
        self._figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI)
        self._board = self._figure.add_axes((0, 0, 1, 1))
        self._board.set(
            xlim=(0, self.width), ylim=(self.height - self._above, -self._above), autoscale_on=False
        )
        self._board.axis("off")
        inner = width - 2 * MARGIN
        y: float = MARGIN - self._above
        for line in wrapped(heading, HEADING_SIZE, inner):
            self.text(line, MARGIN, y, size=HEADING_SIZE)
            y += HEADING_SIZE * LINE_HEIGHT
        y = height + MARGIN // 2
        for line in wrapped(caption, TEXT_SIZE, inner):
            self.text(line, MARGIN, y, size=TEXT_SIZE, colour=CAPTION_COLOUR)
            y += TEXT_SIZE * LINE_HEIGHT

    def panel(
        self, x: float, y: float, width: float, height: float, window: Extent, smooth: bool = True
    ) -> Panel:
        """Return a panel for an image, of which the window is visible, and for maps over it."""
        return Panel(self._board, (x, y), width, height, window, smooth)

    def chart(self, x: float, y: float, width: float, height: float) -> Chart:
        """Return a chart; its tick and axis labels lie outside the rectangle, to the left, below and above."""
        return Chart(self._axes(x, y, width, height))

    def text(
        self,
        text: str,
        x: float,
        y: float,
        *,
        size: int = TITLE_SIZE,
        colour: Colour = BLACK,
        align: Align = "left",
        upright: bool = False,
    ) -> None:
        """Write a line of text.

        Args:
            text: the line.
            x: its left, middle or right, by `align`.
            y: its top; the middle of an upright line.
            size: font size in pixels.
            colour: text colour.
            align: horizontal alignment.
            upright: write it upwards.
        """
        self._board.text(
            x,
            y if upright else y + size / 2,
            text,
            fontsize=size * POINTS,
            color=colour_range(colour),
            ha="center" if upright else align,
            va="center" if upright else "center_baseline",
            rotation=90 if upright else 0,
            parse_math=False,
        )

    def legend_entry(self, x: float, y: float, shape: str, size: float, colour: Colour, text: str) -> float:
        """Draw a marker centred at x, y and its meaning beside it; return x of the next entry."""
        self._board.plot(
            x,
            y,
            marker=shape,
            markersize=size * POINTS,
            markeredgewidth=2.6 * POINTS if shape == "+" else 0,
            color=colour_range(colour),
        )
        self.text(text, x + 14, y - TEXT_SIZE / 2, size=TEXT_SIZE, colour=CAPTION_COLOUR)
        return x + 14 + text_size(text, TEXT_SIZE)[0] + 22

    def colour_bar(
        self, x: float, y: float, height: float, scale: Scale, paint: Paint = Scale.translucent
    ) -> None:
        """Draw a colour bar with its values and its unit at the right, `COLOUR_BAR_WIDTH` pixels in all.

        Args:
            x: its left.
            y: its top.
            height: its height.
            scale: the colour scale.
            paint: the method of `Scale` that gave the colours.
        """
        axes = self._axes(x, y, BAR, height)
        steps = np.linspace(scale.low, scale.high, 256)[::-1, None]  # [256, 1]
        colours = paint(scale, steps)
        solid = colours[..., :3] * colours[..., 3:] + BAR_BACKGROUND / 255 * (1 - colours[..., 3:])
        axes.imshow(solid, extent=(0, 1, scale.low, scale.high), aspect="auto", interpolation="bilinear")
        axes.set(xlim=(0, 1), ylim=(scale.low, scale.high), xticks=[])
        axes.yaxis.tick_right()
        axes.tick_params(labelsize=TEXT_SIZE * POINTS, length=3, width=0.7)
        axes.locator_params(axis="y", nbins=max(2, int(height // 45)))
        axes.spines[:].set_linewidth(0.6)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        self.text(
            scale.label,
            x + COLOUR_BAR_WIDTH - TEXT_SIZE,
            y + height / 2,
            size=TEXT_SIZE,
            colour=CAPTION_COLOUR,
            upright=True,
        )

    def figure(self) -> Figure:
        """Return the matplotlib figure."""
        return self._figure

    def pixels(self) -> np.ndarray:
        """Return the pixels as uint8 [H, W, 3]."""
        return rendered(self._figure)

    def _axes(self, x: float, y: float, width: float, height: float) -> Axes:
        bottom = self.height - self._above - y - height
        return self._figure.add_axes(
            (x / self.width, bottom / self.height, width / self.width, height / self.height)
        )


BAR = 14  # pixels across a colour bar
COLOUR_BAR_WIDTH = BAR + text_size("0.0000", TEXT_SIZE)[0] + 2 * TEXT_SIZE  # with its values and its unit
