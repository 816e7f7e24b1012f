"""Feature maps of the backbone: the strongest channels of each stage, or all channels of one convolution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level
from detrscope.lens.captions import caption, caption_model_and_source
from detrscope.views.canvas import Panel, PixelFigure, Scale
from detrscope.views.grid import PanelGrid, panel_size, rows_and_columns
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Extent, Viewport, corner_text, short_number, viewport_cell_extent

STRONGEST = 6  # channels in a row
MAX_ROWS = 6
MAX_CHANNELS, MAX_COLUMNS = 64, 10  # of the grid of one convolution
SMALL, SIDE = 130, 190  # pixels
HOW = "magnitudes after the ReLU, colours from 0 to each map's own peak, given in its corner"


@dataclass(frozen=True)
class FeatureMaps:
    """Magnitudes of one convolution's output: its mean over channels and its strongest channels.

    Attributes:
        site: such as `backbone.layer1.2.conv3`.
        count: number of channels.
        mean: [h, w] over all channels, on the image.
        channels: indices of the shown channels.
        channel_means: mean of each shown channel over the image.
        maps: [n, h, w] of the shown channels.
        extent: x0, y0, x1, y1 of the maps in pixels of the original.
    """

    site: str
    count: int
    mean: np.ndarray
    channels: list[int]
    channel_means: np.ndarray
    maps: np.ndarray
    extent: Extent

    @classmethod
    def of(cls, trace: TraceData, site: str, most: int) -> FeatureMaps:
        """Return a recorded feature map with its `most` channels of the greatest mean, the strongest first."""
        recorded: Tensor = trace.features[site]
        level = Level(recorded.shape[1], recorded.shape[2])
        inside = trace.geometry.inside(level)
        rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
        maps = recorded[:, :rows, :columns].float().abs().numpy()
        means = maps.mean((1, 2))
        chosen = np.argsort(-means, kind="stable")[:most]
        extent = viewport_cell_extent(trace.geometry, level, rows, columns)
        return cls(site, len(maps), maps.mean(0), chosen.tolist(), means[chosen], maps[chosen], extent)

    @property
    def name(self) -> str:
        """The site without the backbone."""
        return self.site.removeprefix("backbone.")

    @property
    def size(self) -> str:
        """Height and width in cells, such as `25x34`."""
        return f"{self.mean.shape[0]}x{self.mean.shape[1]}"

    def draw(self, panel: Panel, values: np.ndarray, *, transparent: bool = False) -> None:
        """Draw one map on a scale of its own."""
        panel.heatmap(values, Scale.from_zero(values), self.extent, transparent=transparent)
        corner_text(panel, short_number(float(values.max())))


@dataclass(frozen=True)
class FeatureData(ViewData):
    """Feature maps of some convolutions."""

    features: list[FeatureMaps]
    viewport: Viewport = field(metadata=HIDDEN)


def features_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> FeatureData:
    """Collect the strongest channels of each recorded convolution, of many that of each stage's last.

    Raises:
        NotInTrace: no feature map was recorded.
    """
    sites = _recorded(trace)
    features = [
        FeatureMaps.of(trace, site, STRONGEST)
        for site in (sites if len(sites) <= MAX_ROWS else features_view_stages(sites))
    ]
    return FeatureData(
        heading="Strongest channels of the backbone",
        caption=caption(
            caption_model_and_source(trace),
            f"feature maps of the convolutions {', '.join(feature.site for feature in features)}",
            f"the mean over channels, then the {STRONGEST} channels of the greatest mean over the image, which is "
            "given above them",
            HOW,
        ),
        features=features,
        viewport=Viewport.of(trace),
    )


def draw_features(data: FeatureData) -> PixelFigure:
    """Draw a row for each convolution: the mean over channels over the image, then the strongest channels."""
    names = tuple(f"{feature.name}\n{feature.count} channels\n{feature.size}" for feature in data.features)
    size = panel_size(data.viewport, 1 + STRONGEST, SIDE, 120)
    grid = PanelGrid(size, 1 + STRONGEST, len(names), row_names=names)
    figure = grid.figure(data.heading, data.caption)
    for row, feature in enumerate(data.features):
        panel = grid.panel(figure, data.viewport, row, 0, "mean of channels", grey=True)
        feature.draw(panel, feature.mean, transparent=True)
        shown = zip(feature.channels, feature.channel_means, feature.maps, strict=True)
        for column, (channel, mean, values) in enumerate(shown, start=1):
            grid.title(figure, row, column, f"channel {channel}: {short_number(mean)}")
            feature.draw(figure.panel(*grid.corner(row, column), *size, data.viewport.window), values)
    return figure


def channels_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> FeatureData:
    """Collect the channels of the last recorded convolution.

    Raises:
        NotInTrace: no feature map was recorded.
    """
    feature = FeatureMaps.of(trace, _recorded(trace)[-1], MAX_CHANNELS)
    shown = len(feature.channels)
    which = f"all {shown}" if shown == feature.count else f"the {shown} strongest of {feature.count}"
    return FeatureData(
        heading=f"Channels of {feature.name}",
        caption=caption(
            caption_model_and_source(trace),
            f"feature map of {feature.site}, {which} channels in their order, {feature.size} cells",
            HOW,
        ),
        features=[feature],
        viewport=Viewport.of(trace),
    )


def draw_channels(data: FeatureData) -> PixelFigure:
    """Draw the channels of one convolution as a grid in their order."""
    (feature,) = data.features
    rows, columns = rows_and_columns(len(feature.channels), MAX_COLUMNS)
    grid = PanelGrid(panel_size(data.viewport, columns, SMALL), columns, rows)
    figure = grid.figure(data.heading, data.caption)
    for i, (channel, values) in enumerate(
        sorted(zip(feature.channels, feature.maps, strict=True), key=lambda c: c[0])
    ):
        row, column = divmod(i, columns)
        grid.title(figure, row, column, f"channel {channel}")
        panel = figure.panel(*grid.corner(row, column), *grid.size, data.viewport.window)
        feature.draw(panel, values)
    return figure


def features_view_stages(sites: Iterable[str]) -> tuple[str, ...]:
    """Return the last convolution of the stem and of each stage: `backbone.conv1`, `backbone.layer1.2.conv3` ..."""
    last = {site.split(".")[1]: site for site in sites if not site.endswith(".downsample")}
    return tuple(last.values())


def _recorded(trace: TraceData) -> list[str]:
    if not trace.features:
        raise NotInTrace("no feature maps were recorded; trace with features=['backbone.*']")
    return list(trace.features)
