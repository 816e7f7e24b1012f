"""One picture: the feature maps of the backbone's convolutions, or the channels of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from detrscope.core.errors import UserError
from detrscope.core.snapshot import FeatureMaps, Recording
from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import PixelFigure, Scale, header_and_footer, shortened
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.timelapse.film_spec import FilmOptions, FilmSpec, grid_of, heading, picture_panel

WIDTH, HEIGHT = 1280, 720  # pixels
NAME = 11  # pixels, of titles
GAP = 8  # pixels between panels


def feature_reels(watched: Recording, choice: FilmOptions) -> Iterator[FilmSpec]:
    """For each picture: every convolution, its channels merged; or the kept channels of one convolution.

    Raises:
        UserError: no features were kept.
    """
    for name in choice.images:
        features = watched.moments[-1].looks[name].features
        if not features:
            raise UserError(f"{watched.name}: no features were kept; train with --train.recording.features=4")
        if choice.site is None:
            yield FilmSpec(f"{name}-features", len(watched.moments), partial(_sites, watched, name))
        else:
            short = choice.site.removeprefix("backbone.")
            draw = partial(_channels, watched, name, choice.site)
            yield FilmSpec(f"{name}-features-{short}", len(watched.moments), draw)


def _sites(watched: Recording, name: str, index: int) -> PixelFigure:
    features = watched.moments[index].looks[name].features
    titles = [f"{site.removeprefix('backbone.')} {_size(maps)}" for site, maps in features.items()]
    values = [maps.values()[0].numpy() for maps in features.values()]
    caption = (
        "feature maps of the backbone's convolutions, after norm and ReLU (shortcuts without): root mean square over"
        " channels; colours from 0 to the map's own peak at each moment"
    )
    return _sheet(watched, name, index, "features", titles, values, caption)


def _channels(watched: Recording, name: str, site: str, index: int) -> PixelFigure:
    maps = watched.moments[index].looks[name].features[site]
    titles = ["all channels", *(f"channel {channel}" for channel in maps.channels)]
    caption = (
        f"{site}, {_size(maps)}, after norm and ReLU: root mean square over all channels, then the channels that were"
        " strongest in the first look; colours from 0 to the map's own peak at each moment"
    )
    return _sheet(watched, name, index, site, titles, list(maps.values().clamp(min=0).numpy()), caption)


def _sheet(
    watched: Recording,
    name: str,
    index: int,
    what: str,
    titles: list[str],
    values: list[np.ndarray],
    caption: str,
) -> PixelFigure:
    """The picture, then maps."""
    trace: TraceData = watched.images[name]
    above = heading(watched, index, f"{name}, {what}")
    height = HEIGHT - sum(header_and_footer(WIDTH, above, caption))
    aspect = trace.geometry.height / trace.geometry.width
    places = grid_of(len(values) + 1, aspect, WIDTH - 2 * MARGIN, height, GAP, above=NAME + 8)
    sheet = PixelFigure(WIDTH, round(max(y + down for _, y, _, down in places)), above, caption)
    left = (WIDTH - max(x + width for x, _, width, _ in places)) / 2
    for i, (x, y, across, down) in enumerate(places):
        title = titles[i - 1] if i else "picture"
        sheet.text(shortened(title, NAME, across), x + left, y - NAME - 5, size=NAME)
        if i == 0:
            picture_panel(sheet, (x + left, y, across, down), trace, grey=False)
            continue
        one = values[i - 1]
        window = (0.0, 0.0, float(one.shape[1]), float(one.shape[0]))
        panel = sheet.panel(x + left, y, across, down, window, smooth=False)
        panel.heatmap(one, Scale.from_zero(one), transparent=False)
    return sheet


def _size(maps: FeatureMaps) -> str:
    return f"{maps.size.height}x{maps.size.width}"
