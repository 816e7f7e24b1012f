"""An image with a map over it, pixel by pixel: fast enough for every frame of a video."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from detrscope.views.canvas.colours import TIMES_EVEN, Scale
from detrscope.views.canvas.panel import MAX_PERCENTILE, MIN_PERCENTILE, pale_levels

STEPS = 256  # of the colour scale


def with_heatmap(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return an image in pale grey under a map in colours, from even attention to the peak; see `Scale.from_even`.

    Args:
        image: uint8 [H, W, 3].
        values: float [H, W], 0 or more.

    Returns:
        uint8 [H, W, 3].
    """
    grey = Image.fromarray(image).convert("L")
    shares = np.cumsum(grey.histogram()) / (image.shape[0] * image.shape[1])
    low, high = np.searchsorted(shares, (MIN_PERCENTILE / 100, MAX_PERCENTILE / 100)).tolist()
    pale = grey.point(pale_levels(np.arange(256), low, high).tolist()).convert("RGB")
    even = float(values.mean())
    room = max(float(values.max()), TIMES_EVEN * even) - even
    fractions = (values - even).clip(0) * ((STEPS - 1) / room if room > 0 else 0.0)
    steps = Image.fromarray((fractions + 0.5).astype(np.uint8))
    *colours, opacity = _colours()  # tables: Pillow is several times as fast with them as indexing
    heat = Image.merge("RGB", [steps.point(table) for table in colours])
    pale.paste(heat, mask=steps.point(opacity))
    return np.asarray(pale)


@cache
def _colours() -> list[list[int]]:
    """Return red, green, blue and opacity of each step, 0..255."""
    rgba = 255 * Scale(0.0, 1.0).translucent(np.linspace(0, 1, STEPS))
    columns: list[list[int]] = rgba.round().astype(int).T.tolist()
    return columns
