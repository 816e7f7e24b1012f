"""Films of one image: averaged attention with boxes, without them, and as a plain map with its colour bar."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from detrscope.core.snapshot import Recording
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH, MARGIN
from detrscope.views.timelapse.film_spec import OWN_PEAK, FilmOptions, FilmSpec, ProbeFilm, probe_films
from detrscope.views.viewport import visible_cells

WIDTH, MAX_HEIGHT = 720, 720  # pixels


def boxes_films(recording: Recording, options: FilmOptions) -> Iterator[FilmSpec]:
    """Yield for each image: averaged attention with predicted and annotated boxes."""
    for film in probe_films(recording, options):
        yield FilmSpec(f"{film.name}-boxes", len(recording.steps), partial(_draw_over_image, film, True))


def mean_films(recording: Recording, options: FilmOptions) -> Iterator[FilmSpec]:
    """Yield for each image: averaged attention without boxes."""
    for film in probe_films(recording, options):
        yield FilmSpec(f"{film.name}-mean", len(recording.steps), partial(_draw_over_image, film, False))


def plain_films(recording: Recording, options: FilmOptions) -> Iterator[FilmSpec]:
    """Yield for each image: averaged attention as a plain map on one colour scale."""
    for film in probe_films(recording, options):
        maps = [visible_cells(film.attention(index))[0] for index in range(len(recording.steps))]
        levels = recording.images[film.name].levels
        scale = Scale.from_zero(
            *maps, label="attention in a cell" if len(levels) > 1 else "attention of a token"
        )
        yield FilmSpec(f"{film.name}-plain", len(maps), partial(_draw_plain, film, scale))


def _draw_over_image(film: ProbeFilm, with_boxes: bool, index: int) -> PixelFigure:
    note = f"{film.dashed_note}; boxes: predicted by queries" if with_boxes else ""
    caption = f"{film.site}: {film.averaged}; {OWN_PEAK}{note}"
    _, down = film.viewport.size_within(WIDTH - 2 * MARGIN, MAX_HEIGHT)
    figure = PixelFigure(WIDTH, round(down), film.heading(index), caption)
    panel = film.panel(figure, (MARGIN, 0, WIDTH - 2 * MARGIN, down), film.attention(index))
    if with_boxes:
        film.draw_boxes(panel, index, film.detected(index), film.options.layer)
    return figure


def _draw_plain(film: ProbeFilm, scale: Scale, index: int) -> PixelFigure:
    attention = film.attention(index)
    values, _ = visible_cells(attention)
    sizes = " + ".join(f"{level.height}x{level.width}" for level in film.traces[index].levels)
    caption = (
        f"{film.site}: {film.averaged}; {sizes} tokens, weights sum to {attention.mass:.2f};"
        " one colour scale for all frames"
    )
    inner = WIDTH - 3 * MARGIN - COLOUR_BAR_WIDTH
    across, down = film.viewport.size_within(inner, MAX_HEIGHT)
    figure = PixelFigure(WIDTH, round(down), film.heading(index), caption)
    left = MARGIN + (inner - across) / 2
    window = (0.0, 0.0, float(values.shape[1]), float(values.shape[0]))
    panel = figure.panel(left, 0, across, down, window, smooth=False)
    panel.heatmap(values, scale, transparent=False)
    figure.colour_bar(left + across + MARGIN, 0, down, scale, Scale.opaque)
    return figure
