"""One map of attention over its picture, with its scale and its caption."""

from __future__ import annotations

import textwrap

import numpy as np

from detrscope.core.attention_map import AttentionMap, QueryAttention
from detrscope.core.types import Level
from detrscope.views.canvas import Plot

WIDTH = 900  # pixels
CAPTION = 110  # letters in a line
MAPS = "inferno"  # even in lightness: reads the same to the colour-blind and in print


def draw_attention(attention: AttentionMap | QueryAttention) -> Plot:
    """The map in colour over the picture in grey, in pixels of the original.

    The scale is that of the weights: over tokens of one map their own, else attention in a pixel.
    """
    g = attention.geometry
    plot = Plot(WIDTH, round(WIDTH * min(2.0, max(0.4, g.height / g.width * 0.9 + 0.15))))
    axes = plot.figure().add_subplot()
    over = attention.on_image().numpy()
    unit = "attention in a pixel"
    if isinstance(attention, AttentionMap) and len(attention.parts) == 1:
        level = Level(*attention.values.shape)
        over = over / pixels_of_a_token(attention, level)
        unit = "attention of a token"
    x0, y0, x1, y1 = g.crop_xyxy
    grey = attention.image.float().mean(0).numpy()
    axes.imshow(grey, cmap="gray", vmin=-60, vmax=255, extent=(x0, x1, y1, y0))
    drawn = axes.imshow(over, cmap=MAPS, alpha=0.65, vmin=0, extent=(0, g.width, g.height, 0))
    if attention.selection.point is not None:
        axes.plot(*attention.selection.point, marker="o", color="red", markeredgecolor="white", markersize=9)
    axes.set(xlim=(0, g.width), ylim=(g.height, 0), xticks=[], yticks=[])
    plot.figure().colorbar(drawn, ax=axes, shrink=0.9, label=unit)
    axes.set_xlabel(textwrap.fill(attention.caption, CAPTION), fontsize=8, color="0.35")
    return plot


def pixels_of_a_token(attention: AttentionMap, level: Level) -> float:
    """One over the pixels of the original that a whole cell of a map covers."""
    g = attention.geometry
    across, down = g.scale
    return float(np.float64(level.height * level.width) / (g.padded[0] * g.padded[1]) * across * down)
