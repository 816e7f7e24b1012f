"""Layout of equal panels in rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

from detrscope.views.canvas import Panel, PixelFigure, Scale, shorten_to_width, text_size
from detrscope.views.canvas.figure import CAPTION_COLOUR, COLOUR_BAR_WIDTH, MARGIN, Paint
from detrscope.views.canvas.text import TEXT_SIZE, TITLE_SIZE
from detrscope.views.viewport import Rect, Viewport

GAP = 10  # pixels between panels
TITLE_HEIGHT = round(TITLE_SIZE * 1.35) + 4  # pixels, of one line of text above a panel
MAX_WIDTH = 1500  # pixels, of a figure
MIN_WIDTH = 680  # pixels, for the caption to be readable


def panel_size(viewport: Viewport, columns: int, side: int, reserved: int = 0) -> tuple[int, int]:
    """Return the size of a panel with about the area of a square; smaller where the figure would become too wide.

    Args:
        viewport: what it shows.
        columns: number of panels in a row.
        side: side of the square in pixels.
        reserved: pixels that something else takes in the row.
    """
    width, height = viewport.size(side)
    widest = (MAX_WIDTH - 2 * MARGIN - reserved) // columns - GAP
    return (width, height) if width <= widest else (widest, max(1, round(height * widest / width)))


def rows_and_columns(count: int, max_columns: int) -> tuple[int, int]:
    """Return the shape of a grid for some panels, its rows as even as possible."""
    rows = max(1, -(-count // max_columns))
    return rows, max(1, -(-count // rows))


def largest_panel_grid(
    count: int, aspect: float, width: float, height: float, gap: float, above: float = 0
) -> list[Rect]:
    """Return rectangles in reading order, as large as they can be.

    Args:
        count: number of rectangles.
        aspect: height of a rectangle over its width.
        width: width of the whole in pixels.
        height: height of the whole in pixels.
        gap: pixels between rectangles.
        above: pixels above each rectangle, for its title.
    """
    side, columns = max(
        (min((width + gap) / n - gap, ((height + gap) / -(-count // n) - gap - above) / aspect), n)
        for n in range(1, count + 1)
    )
    tall = side * aspect
    return [
        (i % columns * (side + gap), above + i // columns * (tall + above + gap), side, tall)
        for i in range(count)
    ]


@dataclass(frozen=True)
class PanelGrid:
    """Grid of equal panels; all in pixels.

    Attributes:
        size: width and height of a panel.
        columns: number of panels in a row.
        rows: number of rows.
        lines: lines of text above each panel: a title, and a second line.
        row_names: names at the left of the rows.
        column_names: names above the columns, above the first row only.
        scale: colour scale of a colour bar at the right of the first row; None for none.
        footer: room below the last row.
    """

    size: tuple[int, int]
    columns: int
    rows: int = 1
    lines: int = 1
    row_names: tuple[str, ...] = ()
    column_names: tuple[str, ...] = ()
    scale: Scale | None = None
    footer: int = 0

    @property
    def left(self) -> int:
        """Left of the first panel."""
        widths = [text_size(line, TITLE_SIZE)[0] for name in self.row_names for line in name.split("\n")]
        return MARGIN + (max(widths) + GAP if widths else 0)

    @property
    def above(self) -> int:
        """Height of the text above a panel."""
        return round(self.lines * TITLE_SIZE * 1.35) + (4 if self.lines else 0)

    @property
    def header(self) -> int:
        """Height of the names of the columns."""
        return TITLE_HEIGHT if self.column_names else 0

    @property
    def width(self) -> int:
        """Width of the figure."""
        taken = self.left + self.columns * (self.size[0] + GAP) - GAP + MARGIN
        return max(MIN_WIDTH, taken + (GAP + COLOUR_BAR_WIDTH if self.scale is not None else 0))

    @property
    def height(self) -> int:
        """Height of the body of the figure."""
        return self.header + self.rows * (self.above + self.size[1] + GAP) - GAP + self.footer

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Return left and top of a panel."""
        return (
            self.left + column * (self.size[0] + GAP),
            self.header + row * (self.above + self.size[1] + GAP) + self.above,
        )

    def figure(self, heading: str, caption: str, paint: Paint = Scale.translucent) -> PixelFigure:
        """Return an empty figure of the right size with the names of rows and columns and the colour bar."""
        figure = PixelFigure(self.width, self.height, heading, caption)
        for row, name in enumerate(self.row_names):
            lines = name.split("\n")
            y = self.corner(row, 0)[1] + (self.size[1] - len(lines) * TITLE_SIZE * 1.4) / 2
            for i, line in enumerate(lines):
                colour = CAPTION_COLOUR if i else (0, 0, 0)
                figure.text(line, self.left - GAP, y + i * TITLE_SIZE * 1.4, align="right", colour=colour)
        for column, name in enumerate(self.column_names):
            text = shorten_to_width(name, TITLE_SIZE, self.size[0] + GAP)
            figure.text(text, self.corner(0, column)[0], 0)
        if self.scale is not None:
            x, y = self.corner(0, self.columns)
            figure.colour_bar(x, y, self.size[1], self.scale, paint)
        return figure

    def panel(
        self,
        figure: PixelFigure,
        viewport: Viewport,
        row: int,
        column: int,
        *titles: str,
        grey: bool = False,
    ) -> Panel:
        """Return a panel that shows an image, with its titles above it."""
        self.title(figure, row, column, *titles)
        return viewport.panel(figure, self.corner(row, column), self.size, grey=grey)

    def title(self, figure: PixelFigure, row: int, column: int, *lines: str) -> None:
        """Write lines above a panel; the middle of a line that is too wide is left out."""
        x, y = self.corner(row, column)
        for i, line in enumerate(lines):
            size, colour = (TEXT_SIZE, CAPTION_COLOUR) if i else (TITLE_SIZE, (0, 0, 0))
            text = shorten_to_width(line, size, self.size[0] + GAP)
            figure.text(text, x, y - self.above + i * TITLE_SIZE * 1.35, size=size, colour=colour)
