"""The film of a whole run: attention in the probe images beside losses, learning rates, AP and attention on parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from detrscope.console import log
from detrscope.core.snapshot import Recording
from detrscope.views.canvas import PixelFigure, header_and_footer
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.grid import largest_panel_grid
from detrscope.views.part_curves import draw_ratios
from detrscope.views.timelapse.curves import LOSS, RATES, Curves
from detrscope.views.timelapse.film_spec import (
    OWN_PEAK,
    FilmOptions,
    FilmSpec,
    ProbeFilm,
    film_heading,
)
from detrscope.views.viewport import Rect

WIDTH, HEIGHT = 1440, 810  # pixels
IMAGES_WIDTH = 780  # pixels across, of the part with the images
MAX_IMAGES = 9  # in one film
GAP = 8  # pixels between images
ABOVE, BESIDE, BELOW = 46.0, 46.0, 24.0  # pixels around a chart for its title and its numbers
MIN_CHART, MAX_CHART = 80.0, 150.0  # pixels, height of a chart below the images or above the parts
NAMES = 130  # pixels for the names of parts
BELOW_IMAGES = (LOSS, RATES)  # charts that go below the images where there is room


def final_film(recording: Recording, options: FilmOptions) -> FilmSpec:
    """Return one film with all images (the first nine) and the metrics of the run."""
    names = options.images(recording)
    left_out = f"the first {MAX_IMAGES} of {len(names)} images" if len(names) > MAX_IMAGES else ""
    if left_out:
        log.info("the final film shows %s", left_out)
    films = [ProbeFilm(recording, name, options) for name in names[:MAX_IMAGES]]
    name = "final" if len(names) == len(recording.images) else f"{names[0]}-final"
    draw = partial(_draw, recording, films, left_out, Curves.of(recording))
    return FilmSpec(name, len(recording.steps), draw)


def _draw(
    recording: Recording, films: Sequence[ProbeFilm], left_out: str, curves: Curves, index: int
) -> PixelFigure:
    first = films[0]
    dashed = next((film.dashed_note for film in films if film.dashed_note), "")
    caption = f"{first.site}: {first.averaged}; {OWN_PEAK}{dashed}; boxes: predicted"
    if left_out:
        caption += f"; {left_out}"
    if recording.attention:
        caption += (
            "; attention relative to area: attention of the matched query on a part of its object (mean over heads of"
            " the last layer, and over objects), divided by the part's mean share of the image"
        )
    above = film_heading(recording, index)
    height = HEIGHT - sum(header_and_footer(WIDTH, above, caption))
    figure = PixelFigure(WIDTH, height, above, caption)
    aspect = max(down / across for across, down in (film.viewport.size_within(1, 1) for film in films))
    rects = largest_panel_grid(len(films), aspect, IMAGES_WIDTH - 2 * MARGIN, height, GAP)
    for film, (x, y, across, down) in zip(films, rects, strict=True):
        panel = film.panel(figure, (MARGIN + x, y, across, down), film.attention(index))
        film.draw_boxes(panel, index, film.detected(index), film.options.layer)
    bottom = max(y + down for _, y, _, down in rects)
    charts, parts = _layout(list(curves.charts), bottom, height, bool(recording.attention))
    for title, rect in charts.items():
        curves.draw(figure, title, rect, recording.steps[index].epoch)
    if recording.attention:
        draw_ratios(figure, parts, recording.attention, until=recording.steps[index].step)
    return figure


def _layout(
    titles: list[str], bottom: float, height: float, with_parts: bool
) -> tuple[dict[str, Rect], Rect]:
    """Return the rectangles of the charts by title, and of the chart of parts.

    Args:
        titles: titles in reading order.
        bottom: where the images end.
        height: height of the figure's body.
        with_parts: leave the lower right to the parts.
    """
    rects: dict[str, Rect] = {}
    room = height - bottom - ABOVE - BELOW
    if room >= MIN_CHART:
        below = [title for title in titles if title in BELOW_IMAGES]
        wide, tall = (IMAGES_WIDTH - MARGIN) / len(below), min(room, MAX_CHART)
        for i, title in enumerate(below):
            x = MARGIN + i * wide + BESIDE - 16
            rects[title] = (x, height - BELOW - tall, wide - BESIDE - MARGIN, tall)
    rest = [title for title in titles if title not in rects]
    rows = -(-len(rest) // 2)
    tall = (height / (1.7 if with_parts else 1.0)) / rows - ABOVE - BELOW
    tall = min(tall, MAX_CHART) if with_parts else tall
    wide = (WIDTH - IMAGES_WIDTH) / 2
    for i, title in enumerate(rest):
        x, y = IMAGES_WIDTH + BESIDE + i % 2 * wide, ABOVE + i // 2 * (tall + ABOVE + BELOW)
        rects[title] = (x, y, wide - BESIDE - MARGIN, tall)
    y = rows * (tall + ABOVE + BELOW) + ABOVE / 2
    width = WIDTH - IMAGES_WIDTH - BESIDE - NAMES - MARGIN
    return rects, (IMAGES_WIDTH + BESIDE, y, width, height - y - BELOW - 16)
