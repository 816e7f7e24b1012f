"""Line and bar charts with a common style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from detrscope.views.canvas.colours import Colour, Scale, colour_range, line_style, text_colour_on
from detrscope.views.canvas.drawing import DPI, Drawing, rendered
from detrscope.views.canvas.fonts import drawable_text, set_text_font

LONG_LABEL = 36  # characters of a legend's line that fit below a chart
Where = Literal["best", "lower left", "upper left", "upper right", "lower right"]


class Chart:
    """Chart with a light grid and no box around it."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)

    def line(
        self,
        x: Sequence[float],
        y: Sequence[float] | np.ndarray,
        index: int = 0,
        *,
        label: str = "",
        dashed: bool = False,
        dotted: bool = False,
        grey: float | None = None,
        width: float = 1.6,
        dots: float = 0.0,
    ) -> None:
        """Draw a line through points.

        Args:
            x: positions along x, in order.
            y: values.
            index: index of the line style, one for each series.
            label: text in the legend.
            dashed: dash the line, for a second value of the same series.
            dotted: dot the line, for a baseline of the same series.
            grey: 0 black to 1 white, instead of a colour.
            width: line width in points.
            dots: size of a dot at each point; a single point always has one.
        """
        style = line_style(index) | {"linewidth": width}
        style |= {"linestyle": "--"} if dashed else {"linestyle": ":"} if dotted else {}
        style |= {"color": str(grey) if grey else "black", "linestyle": "-"} if grey is not None else {}
        marked = dots or (4.0 if len(x) == 1 else 0.0)
        style |= {"marker": "o", "markersize": marked} if marked else {}
        # matplotlib leaves what begins with "_" out of the legend
        self._axes.plot(x, y, label=f" {label}" if label.startswith("_") else label or "_", **style)

    def dots(
        self,
        x: Sequence[float] | np.ndarray,
        y: Sequence[float] | np.ndarray,
        index: int = 0,
        size: float = 5,
    ) -> None:
        """Draw points without a line."""
        colour = line_style(index)["color"]
        self._axes.plot(x, y, "o", color=colour, markersize=size, alpha=0.55, markeredgewidth=0)

    def bars(self, names: Sequence[str], lengths: Sequence[float], colours: Sequence[Colour]) -> None:
        """Draw horizontal bars, the first on top, each with its value at its end."""
        positions, longest = np.arange(len(names)), max([*lengths, 1e-9])
        self._axes.barh(positions, lengths, color=[colour_range(c) for c in colours], height=0.72)
        self._axes.set_yticks(positions, [drawable_text(name) for name in names], fontsize=9)
        self._set_tick_fonts()
        self._axes.set_ylim(len(names) - 0.5, -0.5)
        for position, length in zip(positions.tolist(), lengths, strict=True):
            self._axes.annotate(
                (f"{length:.2g}" if length < 100 else f"{length:.0f}") if length > longest / 1000 else "0",
                (length, position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        self._axes.grid(False)
        self._axes.spines[:].set_visible(False)
        self._axes.tick_params(left=False, bottom=False, labelbottom=False)
        self._axes.set_xlim(0, longest)

    def matrix(self, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, scale: Scale) -> None:
        """Draw a table of numbers, each on its colour; NaN leaves a cell empty.

        Args:
            rows: names of the rows, the first on top.
            columns: names of the columns, below.
            values: [rows, columns].
            scale: colours of the numbers.
        """
        shown = np.nan_to_num(values)
        colours = np.where(np.isnan(values)[..., None], 1.0, scale.opaque(shown)[..., :3])  # 0..1
        self._axes.imshow(colours, aspect="auto", interpolation="nearest")
        self.ticks(columns)
        self.ticks(rows, "y")
        self._axes.grid(False)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = colour_range(text_colour_on(scale.colour(float(value))))
                self._axes.text(
                    column, row, f"{value:+.3f}", ha="center", va="center", fontsize=8, color=colour
                )

    def mark(self, x: float, y: float, text: str, *, below_left: bool = False) -> None:
        """Draw a black dot with a text above it, or below it at its left, on a white ground."""
        self._axes.plot([x], [y], "o", color="black", markersize=4, zorder=5)
        label = self._axes.annotate(
            text, (x, y), textcoords="offset points", xytext=(0, 5), ha="center", fontsize=8
        )
        if below_left:
            label.set(position=(-7, -4), ha="right", va="top", zorder=6)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})

    def reference_line(self, y: float, text: str) -> None:
        """Draw a thin horizontal line with its meaning at the right."""
        self._axes.axhline(y, color="0.55", linewidth=0.9, linestyle=(0, (1, 2)))
        self._axes.annotate(
            text,
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="0.45",
        )

    def note(self, text: str) -> None:
        """Write a text in the middle of an empty chart."""
        self._axes.text(0.5, 0.5, text, transform=self._axes.transAxes, ha="center", va="center", color="0.4")

    def titles(
        self, title: str = "", x: str = "", y: str = "", *, align: Literal["left", "center"] = "center"
    ) -> None:
        """Set the title and the labels of the axes."""
        self._axes.set_title(title, fontsize=10, loc=align, parse_math=False)
        self._axes.set_xlabel(x, fontsize=9)
        self._axes.set_ylabel(y, fontsize=9)

    def limits(
        self,
        x: tuple[float | None, float | None] | None = None,
        y: tuple[float | None, float | None] | None = None,
    ) -> None:
        """Set the limits of each axis; None follows the data."""
        if x is not None:
            self._axes.set_xlim(*x)
        if y is not None:
            self._axes.set_ylim(*y)

    def integer_ticks(self) -> None:
        """Set ticks along x at whole numbers only, with room on both sides of a single one."""
        self._axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = self._axes.dataLim.intervalx
        if low == high:
            self._axes.set_xlim(low - 1, high + 1)

    def ticks(self, names: Sequence[str], axis: Literal["x", "y"] = "x") -> None:
        """Set names at 0, 1, 2 ... instead of numbers."""
        if axis == "x":
            self._axes.set_xticks(range(len(names)), [drawable_text(name) for name in names], fontsize=9)
        else:
            self._axes.set_yticks(range(len(names)), [drawable_text(name) for name in names], fontsize=9)
        self._set_tick_fonts()

    def _set_tick_fonts(self) -> None:
        """Set now what `set_fonts` cannot: matplotlib writes the text of ticks when it draws them."""
        for text in (*self._axes.get_xticklabels(), *self._axes.get_yticklabels()):
            set_text_font(text)

    def scientific_ticks(self) -> None:
        """Show very large and very small numbers along y with a common factor of ten."""
        self._axes.ticklabel_format(axis="y", scilimits=(-2, 4))

    def legend(self, where: Where = "best", title: str = "") -> None:
        """Show the legend of the labelled lines."""
        legend = self._axes.legend(fontsize=8, loc=where, title=title or None, title_fontsize=8)
        legend.get_frame().set(edgecolor="none", alpha=0.85)  # lines below stay faintly there

    def legend_below(self) -> None:
        """Show the legend of the labelled lines below the chart, where it covers none; inside where names are long."""
        longest = max((len(label) for label in self._axes.get_legend_handles_labels()[1]), default=0)
        if longest > LONG_LABEL:  # below, it would take the chart's width
            self.legend()
            return
        columns = max(1, min(3, LONG_LABEL // max(longest, 1)))
        self._axes.legend(
            fontsize=8,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.12),
            ncols=columns,
            frameon=False,
            columnspacing=1.2,
        )

    @property
    def empty(self) -> bool:
        """Whether no line has been drawn."""
        return not self._axes.lines


class Plot(Drawing):
    """Charts in a grid, `width` x `height` pixels."""

    def __init__(self, width: int, height: int, heading: str = "") -> None:
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
        if heading:
            self._figure.suptitle(heading, fontsize=11, parse_math=False)

    def grid(self, rows: int, columns: int) -> list[Chart]:
        """Return the charts of a grid in reading order."""
        return [Chart(axes) for axes in self._figure.subplots(rows, columns, squeeze=False).flat]

    def figure(self) -> Figure:
        """Return the matplotlib figure."""
        return self._figure

    def pixels(self) -> np.ndarray:
        """Return the pixels as uint8 [H, W, 3]."""
        return rendered(self._figure)
