"""Films of a recording: how attention changes while a model trains.

`FILMS` is the table of views: each gives the films of a recording. To add one: a file here, a line there, a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from detrscope.core.snapshot import Recording
from detrscope.views.timelapse.features import feature_films
from detrscope.views.timelapse.film_spec import FilmOptions, FilmSpec
from detrscope.views.timelapse.final import final_films
from detrscope.views.timelapse.maps import boxes_films, mean_films, plain_films
from detrscope.views.timelapse.queries import query_films

FILMS: dict[str, Callable[[Recording, FilmOptions], Iterator[FilmSpec]]] = {
    "final": final_films,
    "boxes": boxes_films,
    "mean": mean_films,
    "plain": plain_films,
    "queries": query_films,
    "features": feature_films,
}

__all__ = ["FILMS", "FilmOptions", "FilmSpec"]
