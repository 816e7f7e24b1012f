"""Films of a training that was watched: what happens to attention while a model learns.

`FILMS` is the table of films by name: each gives the reels that can be made of a run. To add one: a file here, a line
there, a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from detrscope.core.snapshot import Recording
from detrscope.views.timelapse.features import feature_reels
from detrscope.views.timelapse.film_spec import FilmOptions, FilmSpec
from detrscope.views.timelapse.final import final_reels
from detrscope.views.timelapse.maps import boxes_reels, merged_reels, plain_reels
from detrscope.views.timelapse.queries import query_reels

FILMS: dict[str, Callable[[Recording, FilmOptions], Iterator[FilmSpec]]] = {
    "final": final_reels,
    "boxes": boxes_reels,
    "merged": merged_reels,
    "plain": plain_reels,
    "queries": query_reels,
    "features": feature_reels,
}

__all__ = ["FILMS", "FilmOptions", "FilmSpec"]
