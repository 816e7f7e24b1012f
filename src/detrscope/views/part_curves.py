"""Attention on parts of objects over a training: how much, and how much for their area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detrscope.views.canvas import Colour, Drawing, PixelFigure, line_colour
from detrscope.views.canvas.figure import LINE_HEIGHT
from detrscope.views.canvas.text import TEXT_SIZE

Rows = Sequence[Mapping[str, float | None]]
Rect = tuple[float, float, float, float]  # x, y, width, height
WHOLE = ("object", "box")  # made up of other parts, or beside them
REST = {
    "other objects": 0.45,
    "background": 0.65,
    "outside the box": 0.65,
}  # drawn in grey, 0 black to 1 white
WIDTH, HEIGHT = 1100, 430  # pixels
NAMES = 150  # pixels beside a chart for the names of its lines
FOR_AREA = "attention for its area (1: as if spread evenly)"
CAPTION = (
    "Attention of the query that answers for an object (mean over heads, last decoder layer) on parts of the object,"
    " mean over the objects of the probe images that show the part; the rest lies on the background and on other"
    " objects. On the right the same divided by the mean share of the image that the part has: spread evenly over the"
    " image, attention would be at 1."
)


def draw_part_curves(rows: Rows, path: str | Path | None = None, *, name: str = "") -> Drawing:
    """Attention on each part over the epochs: its mass, and its mass for the area of the part.

    Args:
        rows: of a run's attention.jsonl.
        path: where to save the picture; None to keep it in memory.
        name: of the run, for the heading.
    """
    sheet = PixelFigure(WIDTH, HEIGHT, f"Attention on parts{f', {name}' if name else ''}", CAPTION)
    wide = WIDTH / 2 - NAMES - 66
    for x, ratio, title in (
        (50.0, False, "attention, %"),
        (WIDTH / 2 + 50.0, True, FOR_AREA),
    ):
        sheet.text(title, x, 4, size=TEXT_SIZE)
        _draw(
            sheet,
            (x, 4 + TEXT_SIZE * LINE_HEIGHT + 8, wide, HEIGHT - 90),
            rows,
            rows[-1]["step"] or 0,
            ratio=ratio,
        )
    if path is not None:
        sheet.save(path)
    return sheet


def draw_ratios(sheet: PixelFigure, rect: Rect, rows: Rows, until: float) -> None:
    """Attention for its area, part by part up to a step, with names and values at the right of the rectangle."""
    sheet.text(FOR_AREA, rect[0], rect[1] - TEXT_SIZE * LINE_HEIGHT, size=TEXT_SIZE)
    _draw(sheet, rect, rows, until, ratio=True)


def on_objects(rows: Rows) -> str:
    """The name under which attention on whole objects was measured; empty where it was not."""
    return next((name for name in WHOLE if any(f"mass/{name}" in row for row in rows)), "")


def part_names(rows: Rows) -> list[str]:
    """The parts that share the image among them: parts of objects where they are known, else objects, else boxes."""
    names = [
        key.removeprefix("mass/")
        for key in dict.fromkeys(k for row in rows for k in row)
        if key.startswith("mass/")
    ]
    fine = [name for name in names if name not in (*WHOLE, *REST)]
    if fine:
        return [*fine, *(name for name in names if name in REST and name != "outside the box")]
    if "object" in names:
        return ["object", *(name for name in names if name in REST and name != "outside the box")]
    return names


def _draw(sheet: PixelFigure, rect: Rect, rows: Rows, until: float, *, ratio: bool) -> None:
    chart = sheet.chart(*rect)
    if ratio:
        chart.reference_line(1, "")
    names = [name for name in part_names(rows) if ratio or name not in REST]
    tops, ends = [0.0], []
    coloured = [name for name in names if name not in REST]
    for name in names:
        points = [(row["epoch"], _value(row, name, ratio), row["step"]) for row in rows]
        known = [(e, v, s) for e, v, s in points if e is not None and v is not None and s is not None]
        past = [(e, v) for e, v, s in known if s <= until]
        tops += [v for _, v, _ in known]
        place = coloured.index(name) if name in coloured else 0
        chart.line([e for e, _ in past], [v for _, v in past], place, grey=REST.get(name))
        grey = round(255 * REST.get(name, 0))
        colour = (grey, grey, grey) if name in REST else line_colour(place)
        if past:
            ends.append((past[-1][1], name, colour))
    top = max(tops) * 1.05 or 1.0
    chart.limits((0, (rows[-1]["epoch"] or 1.0)), (0, top))
    chart.titles(x="epoch")
    _names(
        sheet,
        rect,
        [(value / top, f"{name} {value:.2g}{'x' if ratio else ''}", colour) for value, name, colour in ends],
    )


def _value(row: Mapping[str, float | None], name: str, ratio: bool) -> float | None:
    mass, area = row.get(f"mass/{name}"), row.get(f"area/{name}")
    if mass is None or not area:
        return None
    return mass / area if ratio else 100 * mass


def _names(sheet: PixelFigure, rect: Rect, ends: list[tuple[float, str, Colour]]) -> None:
    """Names of lines at the right of a chart, near their ends (0 at the bottom, 1 at the top) and apart."""
    x, y, width, height = rect
    step = TEXT_SIZE * 1.25
    tops: list[float] = []
    for place, _, _ in sorted(ends, key=lambda end: -end[0]):
        wanted = y + (1 - place) * height - TEXT_SIZE / 2
        tops.append(max(wanted, tops[-1] + step if tops else y - TEXT_SIZE))
    spill = tops[-1] - (y + height - TEXT_SIZE / 2) if tops else 0.0
    for i in range(len(tops) - 1, -1, -1):  # back up where they would run over the bottom
        limit = y + height - TEXT_SIZE / 2 if i + 1 == len(tops) else tops[i + 1] - step
        tops[i] = min(tops[i], limit) if spill > 0 else tops[i]
    for top, (_, text, colour) in zip(tops, sorted(ends, key=lambda end: -end[0]), strict=True):
        sheet.text(text, x + width + 8, top, size=TEXT_SIZE - 1, colour=colour)
