"""One picture: attention merged over queries, with boxes, without, and as a plain map with its scale."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from detrscope.core.snapshot import Recording
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.canvas.figure import COLOUR_BAR_WIDTH, MARGIN
from detrscope.views.timelapse.film_spec import (
    FilmOptions,
    FilmSpec,
    dashed,
    draw_found,
    draw_truth,
    found_queries,
    heading,
    map_values,
    merged_row,
    merging,
    picture_panel,
    site_name,
    size_in,
)

WIDTH, TALLEST = 720, 720  # pixels
OWN_PEAK = "colours from 0 to the map's own peak at each moment"


def boxes_reels(watched: Recording, choice: FilmOptions) -> Iterator[FilmSpec]:
    """For each picture: attention merged over queries, with the boxes that are found and the true ones."""
    for name in choice.images:
        yield FilmSpec(
            f"{name}-boxes", len(watched.moments), partial(_over_picture, watched, choice, name, True)
        )


def merged_reels(watched: Recording, choice: FilmOptions) -> Iterator[FilmSpec]:
    """For each picture: attention merged over queries, without boxes."""
    for name in choice.images:
        yield FilmSpec(
            f"{name}-merged", len(watched.moments), partial(_over_picture, watched, choice, name, False)
        )


def plain_reels(watched: Recording, choice: FilmOptions) -> Iterator[FilmSpec]:
    """For each picture: attention merged over queries as a plain map with its scale, the same at all moments."""
    for name in choice.images:
        trace = watched.images[name]
        maps = [map_values(merged_row(look, trace, choice), trace) for look in watched.looks(name)]
        unit = "attention in a cell" if len(trace.levels) > 1 else "attention of a token"
        scale = Scale.from_zero(*maps, label=unit)
        yield FilmSpec(f"{name}-plain", len(maps), partial(_plain, watched, choice, name, scale))


def _over_picture(
    watched: Recording, choice: FilmOptions, name: str, with_boxes: bool, index: int
) -> PixelFigure:
    trace, look = watched.images[name], watched.moments[index].looks[name]
    marks = f"{dashed(trace)}; boxes: predicted by queries" if with_boxes else ""
    caption = f"{site_name(choice.layer, look)}: {merging(choice)}; {OWN_PEAK}{marks}"
    above = heading(watched, index, name)
    _, down = size_in(trace, WIDTH - 2 * MARGIN, TALLEST)
    sheet = PixelFigure(WIDTH, round(down), above, caption)
    panel = picture_panel(sheet, (MARGIN, 0, WIDTH - 2 * MARGIN, down), trace)
    values = map_values(merged_row(look, trace, choice), trace)
    panel.heatmap(values, Scale.from_zero(values))
    if with_boxes:
        draw_truth(panel, trace)
        draw_found(panel, look, trace, choice.layer, found_queries(look, trace, choice))
    return sheet


def _plain(watched: Recording, choice: FilmOptions, name: str, scale: Scale, index: int) -> PixelFigure:
    trace, look = watched.images[name], watched.moments[index].looks[name]
    values = map_values(merged_row(look, trace, choice), trace)
    sizes = " + ".join(f"{level.height}x{level.width}" for level in trace.levels)
    caption = (
        f"{site_name(choice.layer, look)}: {merging(choice)}; {sizes} tokens, weights sum to {values.sum():.2f};"
        " one scale for all moments"
    )
    inner = WIDTH - 3 * MARGIN - COLOUR_BAR_WIDTH
    across, down = size_in(trace, inner, TALLEST)
    sheet = PixelFigure(WIDTH, round(down), heading(watched, index, name), caption)
    window = (0.0, 0.0, float(values.shape[1]), float(values.shape[0]))
    left = MARGIN + (inner - across) / 2
    panel = sheet.panel(left, 0, across, down, window, smooth=False)
    panel.heatmap(values, scale, transparent=False)
    sheet.colour_bar(left + across + MARGIN, 0, down, scale, Scale.opaque)
    return sheet
