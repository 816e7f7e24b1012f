"""Equal panels in rows and columns: where each goes, and how large the sheet is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detrscope.views.canvas import PixelFigure, Scale, shortened, text_size
from detrscope.views.canvas.figure import INK, MARGIN, SCALE, Paint
from detrscope.views.canvas.text import NAME, TEXT
from detrscope.views.viewport import Viewport

GAP = 10  # pixels between panels
TITLE_LINE = round(NAME * 1.35) + 4  # pixels, of one line of text above a panel
WIDEST = 1500  # pixels that a sheet is meant to have at most
NARROWEST = 680  # and at least, for its caption to be read


def panel_size(frame: Viewport, columns: int, side: int, beside: int = 0) -> tuple[int, int]:
    """Of a panel about as large as a square of that side, less where so many in a row would make a sheet too wide.

    Args:
        frame: what it shows.
        columns: panels in a row.
        side: of the square in pixels.
        beside: pixels that something else takes in the row.
    """
    width, height = frame.size(side)
    widest = (WIDEST - 2 * MARGIN - beside) // columns - GAP
    return (width, height) if width <= widest else (widest, max(1, round(height * widest / width)))


@dataclass(frozen=True)
class PanelGrid:
    """Where things go; all in pixels.

    Attributes:
        size: width and height of a panel.
        columns: panels in a row.
        rows: of panels.
        lines: of text above each panel: a title, and what is under it.
        names: of the rows, at the left.
        tops: names of the columns, above the first row only.
        scale: a colour scale at the right of the first row; None for none.
        foot: room under the last row.
    """

    size: tuple[int, int]
    columns: int
    rows: int = 1
    lines: int = 1
    names: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()
    scale: Scale | None = None
    foot: int = 0

    @property
    def left(self) -> int:
        """Of the first panel."""
        names = [text_size(line, NAME)[0] for name in self.names for line in name.split("\n")]
        return MARGIN + (max(names) + GAP if names else 0)

    @property
    def above(self) -> int:
        """From the top of a row to its panels."""
        return round(self.lines * NAME * 1.35) + (4 if self.lines else 0)

    @property
    def width(self) -> int:
        """Of the sheet."""
        taken = self.left + self.columns * (self.size[0] + GAP) - GAP + MARGIN
        return max(NARROWEST, taken + (GAP + SCALE if self.scale is not None else 0))

    @property
    def height(self) -> int:
        """Of the body of the sheet."""
        return self.head + self.rows * (self.above + self.size[1] + GAP) - GAP + self.foot

    @property
    def head(self) -> int:
        """Above the first row."""
        return TITLE_LINE if self.tops else 0

    def place(self, row: int, column: int) -> tuple[float, float]:
        """Left and top of a panel."""
        return (
            self.left + column * (self.size[0] + GAP),
            self.head + row * (self.above + self.size[1] + GAP) + self.above,
        )

    def sheet(self, heading: str, caption: str, paint: Paint = Scale.veil) -> PixelFigure:
        """An empty sheet of the right size with the names of its rows and its colour scale."""
        sheet = PixelFigure(self.width, self.height, heading, caption)
        for row, name in enumerate(self.names):
            lines = name.split("\n")
            y = self.place(row, 0)[1] + (self.size[1] - len(lines) * NAME * 1.4) / 2
            for i, line in enumerate(lines):
                colour = INK if i else (0, 0, 0)
                sheet.text(line, self.left - GAP, y + i * NAME * 1.4, align="right", colour=colour)
        for column, name in enumerate(self.tops):
            text = shortened(name, NAME, self.size[0] + GAP)
            sheet.text(text, self.place(0, column)[0], 0)
        if self.scale is not None:
            x, y = self.place(0, self.columns)
            sheet.scale(x, y, self.size[1], self.scale, paint)
        return sheet

    def title(self, sheet: PixelFigure, row: int, column: int, *lines: str) -> None:
        """Write above a panel; a line that is too wide loses its middle."""
        x, y = self.place(row, column)
        for i, line in enumerate(lines):
            size, colour = (NAME, (0, 0, 0)) if i == 0 else (TEXT, INK)
            sheet.text(
                shortened(line, size, self.size[0] + GAP),
                x,
                y - self.above + i * NAME * 1.35,
                size=size,
                colour=colour,
            )


def in_rows(items: Sequence[object], most: int) -> tuple[int, int]:
    """Rows and columns for some things, at most so many in a row, the rows as even as can be."""
    rows = max(1, -(-len(items) // most))
    return rows, max(1, -(-len(items) // rows))
