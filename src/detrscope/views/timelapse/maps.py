"""Films of one image: averaged attention with boxes, without them, and as a plain map with its colour bar."""

from __future__ import annotations

from functools import partial

from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH, MARGIN
from detrscope.views.timelapse.film_spec import OWN_PEAK, FilmSpec, ProbeFilm
from detrscope.views.viewport import viewport_cells

WIDTH, MAX_HEIGHT = 720, 720  # pixels


def boxes_film(film: ProbeFilm) -> FilmSpec:
    """Return the averaged attention with predicted and annotated boxes."""
    return film.spec("boxes", partial(_draw_over_image, film, True))


def mean_film(film: ProbeFilm) -> FilmSpec:
    """Return the averaged attention without boxes."""
    return film.spec("mean", partial(_draw_over_image, film, False))


def plain_film(film: ProbeFilm) -> FilmSpec:
    """Return the averaged attention as a plain map, all frames on one colour scale."""
    maps = [viewport_cells(film.attention(index))[0] for index in range(len(film.traces))]
    unit = "attention in a cell" if len(film.traces[-1].levels) > 1 else "attention of a token"
    return film.spec("plain", partial(_draw_plain, film, Scale.from_zero(*maps, label=unit)))


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
    values, _ = viewport_cells(attention)
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
