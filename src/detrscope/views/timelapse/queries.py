"""Films of one image query by query; each panel stays with its object although queries change their indices."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from detrscope.core.records import DeformableRecord
from detrscope.core.snapshot import snapshot_prediction_layer
from detrscope.lens.query_tracks import track_queries
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.points import draw_markers, sampling_points
from detrscope.views.timelapse.film_spec import OWN_PEAK, FilmSpec, ProbeFilm, film_grid_figure

MARKERS = "; markers: sampling points of all heads, coloured by weight, shaped by level; blue: the reference"
TRACKED = "tracked by box, class and attention from the last snapshot backwards"


def queries_film(film: ProbeFilm) -> FilmSpec:
    """Return all recorded queries, those that score best in the end first, or one through the decoder layers."""
    query, layer, last = film.options.query, film.options.layer, film.traces[-1]
    tracks = track_queries(film.traces, layer)  # [T, n]
    if query is not None:
        track = tracks[:, film.snapshots[-1].query_ids.tolist().index(query)]
        return film.spec(f"query-{query}", partial(_draw_layers, film, track))
    best = last.scores(snapshot_prediction_layer(last, layer)).amax(1).argsort(descending=True)
    return film.spec("queries", partial(_draw_queries, film, tracks[:, best]))


def _draw_queries(film: ProbeFilm, tracks: Tensor, index: int) -> PixelFigure:
    """Return a frame with a panel for each track of [T, m]."""
    layer, queries = film.options.layer, tracks[index].tolist()
    caption = f"{film.site}: mean over heads; {OWN_PEAK}{film.dashed_note}; {len(queries)} recorded queries, {TRACKED}"
    titles = [film.title(index, query, layer) for query in queries]
    figure, rects = film_grid_figure(film.heading(index), caption, titles, film.viewport)
    for query, rect in zip(queries, rects, strict=True):
        panel = film.panel(figure, rect, film.query_attention(index, query, layer))
        film.draw_boxes(panel, index, [query], layer)
    return figure


def _draw_layers(film: ProbeFilm, track: Tensor, index: int) -> PixelFigure:
    """Return a frame with a panel for each decoder layer of one track [T]."""
    trace, query = film.traces[index], int(track[index])
    sites = list(trace.records)
    deformable = isinstance(trace.records[sites[-1]], DeformableRecord)
    note = MARKERS if deformable else ""
    caption = f"decoder.*.cross: mean over heads; {OWN_PEAK}{film.dashed_note}{note}; the query is {TRACKED}"
    titles = [f"layer {layer}: {film.title(index, query, layer)}" for layer in range(len(sites))]
    figure, rects = film_grid_figure(film.heading(index), caption, titles, film.viewport)
    for layer, (site, rect) in enumerate(zip(sites, rects, strict=True)):
        panel = film.panel(figure, rect, film.query_attention(index, query, layer))
        film.draw_boxes(panel, index, [query], layer)
        if deformable:
            points = sampling_points(trace, site, query)
            draw_markers(panel, points, Scale.from_zero(points.weights), 1.0)
    return figure
