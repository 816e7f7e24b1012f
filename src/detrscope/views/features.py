"""Feature maps of the backbone: the strongest channels of every stage, or all channels of one convolution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from detrscope.core.trace_data import TraceData
from detrscope.core.types import Level
from detrscope.views.canvas import Panel, PixelFigure, Scale
from detrscope.views.captions import caption, model, short
from detrscope.views.grid import PanelGrid, in_rows, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions
from detrscope.views.viewport import Viewport, corner_text, corners

STRONGEST = 6  # channels in a row
MOST_ROWS = 6
GRID, ACROSS = 64, 10  # channels of a grid, and in a row of it
SMALL, SIDE = 130, 190  # pixels
HOW = "magnitudes after the ReLU, colours from 0 to each map's own peak, given in its corner"


@dataclass(frozen=True)
class Feature:
    """The maps of one convolution without signs, and where they lie."""

    site: str
    size: np.ndarray  # [C, h, w] on the picture
    extent: tuple[float, float, float, float]  # pixels of the original

    @classmethod
    def of(cls, trace: TraceData, site: str) -> Feature:
        """What of a kept map lies on the picture."""
        maps: Tensor = trace.features[site]
        level = Level(maps.shape[1], maps.shape[2])
        inside = trace.geometry.inside(level)
        rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
        size = maps[:, :rows, :columns].float().abs().numpy()
        return cls(site, size, corners(trace.geometry, level, rows, columns))

    @property
    def name(self) -> str:
        """Without the backbone."""
        return self.site.removeprefix("backbone.")

    @cached_property
    def means(self) -> np.ndarray:
        """Of each channel: [C]."""
        return np.asarray(self.size.mean((1, 2)))

    def strongest(self, count: int) -> list[int]:
        """Channels of the greatest mean."""
        order: list[int] = np.argsort(-self.means, kind="stable").tolist()
        return order[:count]

    def show(self, panel: Panel, values: np.ndarray, *, veil: bool = False) -> None:
        """One map on a scale of its own."""
        panel.heat(values, Scale.amounts(values), self.extent, veil=veil)
        corner_text(panel, short(values.max()))


def draw_features(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """A row for each convolution: the mean over channels over the picture, then the channels that are strongest.

    Raises:
        NotInTrace: no feature map was kept.
    """
    sites = _kept(trace)
    rows = [Feature.of(trace, site) for site in (sites if len(sites) <= MOST_ROWS else stage_ends(sites))]
    frame = Viewport.of(trace)
    names = tuple(f"{r.name}\n{len(r.size)} channels\n{r.size.shape[1]}x{r.size.shape[2]}" for r in rows)
    tiles = PanelGrid(panel_size(frame, 1 + STRONGEST, SIDE, 120), 1 + STRONGEST, len(rows), names=names)
    about = caption(
        model(trace),
        f"feature maps of the convolutions {', '.join(r.site for r in rows)}",
        f"the mean over channels, then the {STRONGEST} channels of the greatest mean over the picture, which is given "
        "above them",
        HOW,
    )
    sheet = tiles.sheet("What the backbone sees: the strongest channels", about)
    for row, feature in enumerate(rows):
        tiles.title(sheet, row, 0, "mean of channels")
        under = frame.panel(sheet, tiles.place(row, 0), tiles.size, grey=True)
        feature.show(under, feature.size.mean(0), veil=True)
        for column, channel in enumerate(feature.strongest(STRONGEST), start=1):
            tiles.title(sheet, row, column, f"channel {channel}: {short(feature.means[channel])}")
            feature.show(
                sheet.panel(*tiles.place(row, column), *tiles.size, frame.window), feature.size[channel]
            )
    return sheet


def draw_channels(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """The channels of the last convolution that was kept, as a grid in their order.

    Raises:
        NotInTrace: no feature map was kept.
    """
    feature = Feature.of(trace, _kept(trace)[-1])
    count = len(feature.size)
    channels = sorted(feature.strongest(GRID))
    frame = Viewport.of(trace)
    rows, columns = in_rows(channels, ACROSS)
    tiles = PanelGrid(panel_size(frame, columns, SMALL), columns, rows)
    which = f"all {count}" if len(channels) == count else f"the {len(channels)} strongest of {count}"
    about = caption(
        model(trace),
        f"feature map of {feature.site}, {which} channels in their order, {feature.size.shape[1]}x"
        f"{feature.size.shape[2]} cells",
        HOW,
    )
    sheet = tiles.sheet(f"Channels of {feature.name}", about)
    for i, channel in enumerate(channels):
        row, column = divmod(i, columns)
        tiles.title(sheet, row, column, f"channel {channel}")
        feature.show(sheet.panel(*tiles.place(row, column), *tiles.size, frame.window), feature.size[channel])
    return sheet


def stage_ends(sites: Iterable[str]) -> tuple[str, ...]:
    """The stem's and each stage's last convolution: `backbone.conv1`, `backbone.layer1.2.conv3` ..."""
    last = {site.split(".")[1]: site for site in sites if not site.endswith(".downsample")}
    return tuple(last.values())


def _kept(trace: TraceData) -> list[str]:
    if not trace.features:
        raise NotInTrace("no feature maps were kept; trace with features=['backbone.*']")
    return list(trace.features)
