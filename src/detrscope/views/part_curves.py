"""Attention on parts of objects over a training run: its share, and its share relative to the area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detrscope.views.canvas import Colour, Drawing, PixelFigure, line_colour
from detrscope.views.canvas.figure import LINE_HEIGHT
from detrscope.views.canvas.text import TEXT_SIZE
from detrscope.views.viewport import Rect

Rows = Sequence[Mapping[str, float | None]]
WHOLE = ("object", "box")  # made up of other parts, or beside them
OUTSIDE_BOX = "outside the box"
GREY = {"other objects": 0.45, "background": 0.65, OUTSIDE_BOX: 0.65}  # 0 black to 1 white, not on an object
WIDTH, HEIGHT = 1100, 430  # pixels
NAMES = 150  # pixels beside a chart for the names of its lines
RELATIVE = "attention relative to area (1: as if uniform)"
CAPTION = (
    "Attention of the query matched with an object (mean over heads, last decoder layer) on parts of the object,"
    " mean over the objects of the probe images that show the part; the rest lies on the background and on other"
    " objects. On the right the same divided by the mean share of the image that the part has: uniform attention"
    " would be at 1."
)


def draw_part_curves(rows: Rows, path: str | Path | None = None, *, name: str = "") -> Drawing:
    """Draw the attention on each part over the epochs: its share, and its share relative to the area of the part.

    Args:
        rows: rows of a run's attention.jsonl.
        path: where to save the figure; None to keep it in memory.
        name: name of the run, for the heading.
    """
    figure = PixelFigure(WIDTH, HEIGHT, f"Attention on parts{f', {name}' if name else ''}", CAPTION)
    width, top = WIDTH / 2 - NAMES - 66, 4 + TEXT_SIZE * LINE_HEIGHT + 8
    for x, relative, title in ((50.0, False, "attention, %"), (WIDTH / 2 + 50.0, True, RELATIVE)):
        figure.text(title, x, 4, size=TEXT_SIZE)
        _draw(figure, (x, top, width, HEIGHT - 90), rows, rows[-1]["step"] or 0, relative=relative)
    if path is not None:
        figure.save(path)
    return figure


def draw_ratios(figure: PixelFigure, rect: Rect, rows: Rows, until: float) -> None:
    """Draw the attention relative to area up to a step, with names and values at the right of the rectangle."""
    figure.text(RELATIVE, rect[0], rect[1] - TEXT_SIZE * LINE_HEIGHT, size=TEXT_SIZE)
    _draw(figure, rect, rows, until, relative=True)


def whole_object_curve(rows: Rows) -> str:
    """Return the name under which attention on whole objects was measured; empty where it was not."""
    return next((name for name in WHOLE if any(f"mass/{name}" in row for row in rows)), "")


def curve_part_names(rows: Rows) -> list[str]:
    """Return the parts that share the image: parts of objects where they are known, else objects, else boxes."""
    keys = dict.fromkeys(key for row in rows for key in row)
    names = [key.removeprefix("mass/") for key in keys if key.startswith("mass/")]
    parts = [name for name in names if name not in (*WHOLE, *GREY)] or [
        name for name in names if name == "object"
    ]
    return [*parts, *(name for name in names if name in GREY and name != OUTSIDE_BOX)] if parts else names


def part_curve_value(row: Mapping[str, float | None], name: str, *, relative: bool) -> float | None:
    """Return the attention on a part in percent, or relative to its area; None where it was not measured."""
    mass, area = row.get(f"mass/{name}"), row.get(f"area/{name}")
    if mass is None or not area:
        return None
    return mass / area if relative else 100 * mass


def _draw(figure: PixelFigure, rect: Rect, rows: Rows, until: float, *, relative: bool) -> None:
    chart = figure.chart(*rect)
    if relative:
        chart.reference_line(1, "")
    names = [name for name in curve_part_names(rows) if relative or name not in GREY]
    coloured = [name for name in names if name not in GREY]
    highest, ends = 0.0, []
    for name in names:
        points = [(row["epoch"], part_curve_value(row, name, relative=relative), row["step"]) for row in rows]
        known = [(e, v, s) for e, v, s in points if e is not None and v is not None and s is not None]
        highest = max([highest, *(v for _, v, _ in known)])
        past = [(e, v) for e, v, s in known if s <= until]
        index = coloured.index(name) if name in coloured else 0
        chart.line([e for e, _ in past], [v for _, v in past], index, grey=GREY.get(name))
        grey = round(255 * GREY.get(name, 0))
        if past:
            colour = (grey, grey, grey) if name in GREY else line_colour(index)
            value = past[-1][1]
            ends.append((value, f"{name} {value:.2g}{'x' if relative else ''}", colour))
    top = highest * 1.05 or 1.0
    chart.limits((0, (rows[-1]["epoch"] or 1.0)), (0, top))
    chart.titles(x="epoch")
    _write_names(figure, rect, [(value / top, text, colour) for value, text, colour in ends])


def _write_names(figure: PixelFigure, rect: Rect, ends: list[tuple[float, str, Colour]]) -> None:
    """Write names of lines at the right of a chart, near their ends (0 bottom, 1 top) without overlap."""
    x, y, width, height = rect
    spacing, bottom = TEXT_SIZE * 1.25, y + height - TEXT_SIZE / 2
    ends = sorted(ends, key=lambda end: -end[0])
    tops: list[float] = []
    for end, _, _ in ends:
        wanted = y + (1 - end) * height - TEXT_SIZE / 2
        tops.append(max(wanted, tops[-1] + spacing if tops else y - TEXT_SIZE))
    if tops and tops[-1] > bottom:  # back up where they would run over the bottom
        for i in range(len(tops) - 1, -1, -1):
            tops[i] = min(tops[i], bottom if i + 1 == len(tops) else tops[i + 1] - spacing)
    for top, (_, text, colour) in zip(tops, ends, strict=True):
        figure.text(text, x + width + 8, top, size=TEXT_SIZE - 1, colour=colour)
