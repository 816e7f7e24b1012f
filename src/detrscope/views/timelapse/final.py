"""The film of a whole training: attention in the probe images, beside that epoch's losses, rates, AP and parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from detrscope.console import log
from detrscope.core.snapshot import Recording
from detrscope.views.canvas import PixelFigure, Scale, header_and_footer
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.part_curves import draw_ratios
from detrscope.views.timelapse.curves import LOSS, RATES, Curves
from detrscope.views.timelapse.film_spec import (
    FilmOptions,
    FilmSpec,
    Rect,
    dashed,
    draw_found,
    draw_truth,
    found_queries,
    grid_of,
    heading,
    map_values,
    merged_row,
    merging,
    picture_panel,
    site_name,
)
from detrscope.views.timelapse.maps import OWN_PEAK

WIDTH, HEIGHT = 1440, 810  # pixels
PICTURES = 780  # pixels across, of the part with the pictures
MOST = 9  # pictures in one film
GAP = 8  # pixels between pictures
ABOVE, BESIDE, BELOW = 46.0, 46.0, 24.0  # pixels around a chart for its title and its numbers
SHORTEST, TALLEST = 80.0, 150.0  # of a chart under the pictures or above the parts
NAMES = 130  # pixels for the names of parts
UNDER = (LOSS, RATES)  # charts that go under the pictures if they can


def final_reels(watched: Recording, choice: FilmOptions) -> Iterator[FilmSpec]:
    """One film with all pictures (the first nine) and the metrics of the run."""
    names = choice.images[:MOST]
    if len(names) < len(choice.images):
        log.info("the final film shows the first %d of %d pictures", len(names), len(choice.images))
    name = "final" if len(choice.images) == len(watched.images) else f"{names[0]}-final"
    yield FilmSpec(name, len(watched.moments), partial(_frame, watched, choice, names, Curves.of(watched)))


def _frame(
    watched: Recording, choice: FilmOptions, names: tuple[str, ...], curves: Curves, index: int
) -> PixelFigure:
    above = heading(watched, index)
    first = watched.moments[index].looks[names[0]]
    truth = dashed(*(watched.images[name] for name in names))
    caption = f"{site_name(choice.layer, first)}: {merging(choice)}; {OWN_PEAK}{truth}; boxes: predicted"
    if len(names) < len(choice.images):
        caption += f"; the first {len(names)} of {len(choice.images)} pictures"
    if watched.attention:
        caption += (
            "; attention for its area: mean over objects of what the query that answers for one (mean over heads of the"
            " last layer) gives to a part, divided by the mean share of the image that the part has"
        )
    height = HEIGHT - sum(header_and_footer(WIDTH, above, caption))
    sheet = PixelFigure(WIDTH, height, above, caption)
    aspect = max(watched.images[name].geometry.height / watched.images[name].geometry.width for name in names)
    places = grid_of(len(names), aspect, PICTURES - 2 * MARGIN, height, GAP)
    for name, (x, y, across, down) in zip(names, places, strict=True):
        _draw_picture(sheet, (MARGIN + x, y, across, down), watched, choice, name, index)
    bottom = max(y + down for _, y, _, down in places)
    charts, parts = _layout(list(curves.charts), bottom, height, bool(watched.attention))
    for title, rect in charts.items():
        curves.draw(sheet, title, rect, watched.moments[index].epoch)
    if watched.attention:
        draw_ratios(sheet, parts, watched.attention, until=watched.moments[index].step)
    return sheet


def _draw_picture(
    sheet: PixelFigure, rect: Rect, watched: Recording, choice: FilmOptions, name: str, index: int
) -> None:
    trace, look = watched.images[name], watched.moments[index].looks[name]
    panel = picture_panel(sheet, rect, trace)
    values = map_values(merged_row(look, trace, choice), trace)
    panel.heatmap(values, Scale.from_zero(values))
    draw_truth(panel, trace)
    draw_found(panel, look, trace, choice.layer, found_queries(look, trace, choice))


def _layout(
    titles: list[str], bottom: float, height: float, with_parts: bool
) -> tuple[dict[str, Rect], Rect]:
    """Places of charts by title, and of the chart of parts.

    Args:
        titles: in the order of reading.
        bottom: where the pictures end.
        height: of the whole.
        with_parts: leave the lower right to the parts.
    """
    places: dict[str, Rect] = {}
    room = height - bottom - ABOVE - BELOW
    if room >= SHORTEST:
        under = [title for title in titles if title in UNDER]
        wide, tall = (PICTURES - MARGIN) / len(under), min(room, TALLEST)
        for i, title in enumerate(under):
            places[title] = (
                MARGIN + i * wide + BESIDE - 16,
                height - BELOW - tall,
                wide - BESIDE - MARGIN,
                tall,
            )
    rest = [title for title in titles if title not in places]
    rows = -(-len(rest) // 2)
    tall = (height / (1.7 if with_parts else 1.0)) / rows - ABOVE - BELOW
    tall = min(tall, TALLEST) if with_parts else tall
    wide = (WIDTH - PICTURES) / 2
    for i, title in enumerate(rest):
        x, y = PICTURES + BESIDE + i % 2 * wide, ABOVE + i // 2 * (tall + ABOVE + BELOW)
        places[title] = (x, y, wide - BESIDE - MARGIN, tall)
    y = rows * (tall + ABOVE + BELOW) + ABOVE / 2
    return places, (PICTURES + BESIDE, y, WIDTH - PICTURES - BESIDE - NAMES - MARGIN, height - y - BELOW - 16)
