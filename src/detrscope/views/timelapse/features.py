"""Films of one image: the feature maps of the backbone's convolutions, or the channels of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from detrscope.core.errors import UserError
from detrscope.core.snapshot import FeatureMaps
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.timelapse.film_spec import (
    NO_FEATURES,
    FilmSpec,
    ProbeFilm,
    film_grid_figure,
)

AFTER = "after norm and ReLU"
FROM_ZERO = "colours from 0 to the map's own peak in each frame"


def features_film(film: ProbeFilm) -> FilmSpec:
    """Return every convolution averaged over channels, or the stored channels of one convolution.

    Raises:
        UserError: no features were recorded.
    """
    site = film.options.site
    if not film.snapshots[-1].features:
        raise UserError(f"{film.recording.name}: {NO_FEATURES}")
    if site is None:
        return film.spec("features", partial(_draw_sites, film))
    return film.spec(f"features-{site.removeprefix('backbone.')}", partial(_draw_channels, film, site))


def _draw_sites(film: ProbeFilm, index: int) -> PixelFigure:
    features = film.snapshots[index].features
    titles = [f"{site.removeprefix('backbone.')} {_size(maps)}" for site, maps in features.items()]
    values = [maps.values()[0].numpy() for maps in features.values()]
    caption = (
        f"feature maps of the backbone's convolutions, {AFTER} (shortcuts without): root mean square over channels;"
        f" {FROM_ZERO}"
    )
    return _draw_maps(film, film.heading(index, "features"), caption, titles, values)


def _draw_channels(film: ProbeFilm, site: str, index: int) -> PixelFigure:
    maps = film.snapshots[index].features[site]
    titles = ["all channels", *(f"channel {channel}" for channel in maps.channels)]
    caption = (
        f"{site}, {_size(maps)}, {AFTER}: root mean square over all channels, then the strongest channels of the first"
        f" snapshot; {FROM_ZERO}"
    )
    values = list(maps.values().clamp(min=0).numpy())
    return _draw_maps(film, film.heading(index, site), caption, titles, values)


def _draw_maps(
    film: ProbeFilm, heading: str, caption: str, titles: Sequence[str], maps: Sequence[np.ndarray]
) -> PixelFigure:
    """Return a frame with the image, then maps [H, W] cell by cell."""
    figure, rects = film_grid_figure(heading, caption, ["image", *titles], film.viewport)
    film.viewport.panel_in(figure, rects[0])
    for values, (x, y, width, height) in zip(maps, rects[1:], strict=True):
        window = (0.0, 0.0, float(values.shape[1]), float(values.shape[0]))
        panel = figure.panel(x, y, width, height, window, smooth=False)
        panel.heatmap(values, Scale.from_zero(values), transparent=False)
    return figure


def _size(maps: FeatureMaps) -> str:
    return f"{maps.size.height}x{maps.size.width}"
