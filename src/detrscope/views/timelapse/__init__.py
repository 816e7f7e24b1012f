"""Films of a recording: how attention changes while a model trains.

To add a view of one image: a file here, a line in `VIEWS`, a test.
"""

from __future__ import annotations

from collections.abc import Callable

from detrscope.core.snapshot import Recording
from detrscope.views.timelapse.features import features_film
from detrscope.views.timelapse.film_spec import FilmOptions, FilmSpec, ProbeFilm
from detrscope.views.timelapse.final import final_film
from detrscope.views.timelapse.maps import boxes_film, mean_film, plain_film
from detrscope.views.timelapse.queries import queries_film

FINAL = "final"  # the view of all images
VIEWS: dict[str, Callable[[ProbeFilm], FilmSpec]] = {
    "boxes": boxes_film,
    "mean": mean_film,
    "plain": plain_film,
    "queries": queries_film,
    "features": features_film,
}
NAMES = (FINAL, *VIEWS)


def films(view: str, recording: Recording, options: FilmOptions) -> list[FilmSpec]:
    """Return the films of a view: one of all images for `final`, otherwise one for each image."""
    if view == FINAL:
        return [final_film(recording, options)]
    return [VIEWS[view](ProbeFilm(recording, name, options)) for name in options.images(recording)]


__all__ = ["FINAL", "NAMES", "VIEWS", "FilmOptions", "FilmSpec", "films"]
