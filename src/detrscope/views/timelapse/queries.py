"""One picture: a panel for each query, which stays with its object although queries change their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from torch import Tensor

from detrscope.core.snapshot import ProbeSnapshot, Recording, SampledPoints
from detrscope.core.trace_data import TraceData
from detrscope.lens.query_tracks import follow
from detrscope.views.canvas import Panel, PixelFigure, Scale, header_and_footer
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.timelapse.film_spec import (
    FilmOptions,
    FilmSpec,
    Rect,
    dashed,
    draw_found,
    draw_truth,
    grid_of,
    heading,
    map_values,
    picture_panel,
    site_name,
)
from detrscope.views.timelapse.maps import OWN_PEAK

WIDTH, HEIGHT = 1280, 720  # pixels
PANELS = 8  # queries in a film
NAME = 13  # pixels, of titles
GAP = 10  # pixels between panels
FOLLOWED = "queries followed by box, class and attention from the last look backwards"


def query_reels(watched: Recording, choice: FilmOptions) -> Iterator[FilmSpec]:
    """For each picture: the queries that score best in the end; or one query through the decoder layers."""
    for name in choice.images:
        looks, trace = watched.looks(name), watched.images[name]
        tracks = follow(looks, trace.card.scoring, choice.layer)  # [T, n]
        if choice.query is not None:
            track = tracks[:, looks[-1].query_ids.tolist().index(choice.query)]
            draw = partial(_layers, watched, choice, name, track)
            yield FilmSpec(f"{name}-query-{choice.query}", len(looks), draw)
            continue
        scores = looks[-1].scores(trace.card.scoring, choice.layer).amax(1)
        best = scores.argsort(descending=True)[:PANELS]
        yield FilmSpec(
            f"{name}-queries", len(looks), partial(_panels, watched, choice, name, tracks[:, best])
        )


def _panels(watched: Recording, choice: FilmOptions, name: str, tracks: Tensor, index: int) -> PixelFigure:
    """Tracks [T, m] as panels."""
    trace, look = watched.images[name], watched.moments[index].looks[name]
    caption = f"{site_name(choice.layer, look)}: mean over heads; {OWN_PEAK}{dashed(trace)}; {FOLLOWED}"
    sheet, places = _grid(watched, index, name, trace, caption, tracks.shape[1])
    for place, rect in zip(tracks[index].tolist(), places, strict=True):
        sheet.text(_title(look, trace, place, choice.layer), rect[0], rect[1] - NAME - 5, size=NAME)
        panel = picture_panel(sheet, rect, trace)
        _map_and_box(panel, look, trace, place, choice.layer)
    return sheet


def _layers(watched: Recording, choice: FilmOptions, name: str, track: Tensor, index: int) -> PixelFigure:
    """One track [T] through the layers of the decoder."""
    trace, look = watched.images[name], watched.moments[index].looks[name]
    place = int(track[index])
    points = any(isinstance(kept, SampledPoints) for kept in look.attention)
    marks = "; dots: sampling points of all heads, larger with more weight" if points else ""
    caption = f"decoder.*.cross: mean over heads; {OWN_PEAK}{dashed(trace)}{marks}; {FOLLOWED}"
    sheet, places = _grid(watched, index, name, trace, caption, len(look.attention))
    for layer, rect in enumerate(places):
        title = f"layer {layer}: {_title(look, trace, place, layer)}"
        sheet.text(title, rect[0], rect[1] - NAME - 5, size=NAME)
        panel = picture_panel(sheet, rect, trace)
        _map_and_box(panel, look, trace, place, layer)
        _draw_points(panel, look, trace, place, layer)
    return sheet


def _grid(
    watched: Recording, index: int, name: str, trace: TraceData, caption: str, count: int
) -> tuple[PixelFigure, list[Rect]]:
    above = heading(watched, index, name)
    height = HEIGHT - sum(header_and_footer(WIDTH, above, caption))
    aspect = trace.geometry.height / trace.geometry.width
    places = grid_of(count, aspect, WIDTH - 2 * MARGIN, height, GAP, above=NAME + 8)
    left = (WIDTH - max(x + width for x, _, width, _ in places)) / 2
    body = round(max(y + h for _, y, _, h in places))
    return PixelFigure(WIDTH, body, above, caption), [(x + left, y, w, h) for x, y, w, h in places]


def _map_and_box(panel: Panel, look: ProbeSnapshot, trace: TraceData, place: int, layer: int) -> None:
    values = map_values(look.rows(layer)[place], trace)
    panel.heatmap(values, Scale.from_zero(values))
    draw_truth(panel, trace)
    draw_found(panel, look, trace, layer, [place])


def _title(look: ProbeSnapshot, trace: TraceData, place: int, layer: int) -> str:
    score, label = look.scores(trace.card.scoring, layer)[place].max(0)
    return f"query {int(look.query_ids[place])}, {trace.classes.names[int(label)]} {float(score):.2f}"


def _draw_points(panel: Panel, look: ProbeSnapshot, trace: TraceData, place: int, layer: int) -> None:
    kept = look.attention[layer]
    if isinstance(kept, SampledPoints):
        xy = trace.geometry.points_of(kept.points[:, place].float()).flatten(0, 1).numpy()  # [h * P, 2]
        weights = kept.weights[:, place].float().flatten().numpy()
        colours = Scale.from_zero(weights).opaque(weights)
        panel.dots(xy, colours, 3 + 9 * np.sqrt(weights / max(float(weights.max()), 1e-9)))
