"""An image with a map over it, pixel by pixel: fast enough for every frame of a video."""

from __future__ import annotations

from functools import cache

import numpy as np

from detrscope.views.canvas.colours import Scale
from detrscope.views.canvas.panel import pale_grey

STEPS = 256  # of the colour scale


def with_heatmap(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return an image in pale grey under a map in colours, from 0 to the greatest value of the map.

    Args:
        image: uint8 [H, W, 3].
        values: float [H, W], 0 or more.

    Returns:
        uint8 [H, W, 3].
    """
    most = float(values.max())
    steps = (values * ((STEPS - 1) / most if most > 0 else 0.0) + 0.5).astype(np.uint8)
    colours = _colours()[steps]  # [H, W, 4]
    grey = pale_grey(image).astype(np.float32)[..., None]  # [H, W, 1]
    over: np.ndarray = colours[..., :3] + colours[..., 3:] * grey
    return over.astype(np.uint8)


@cache
def _colours() -> np.ndarray:
    """Return each step's colour times its opacity, plus a half for rounding, and its transparency: float32 [256, 4]."""
    rgba = Scale(0.0, 1.0).translucent(np.linspace(0, 1, STEPS))
    colour = 255 * rgba[:, :3] * rgba[:, 3:] + 0.5
    return np.concatenate([colour, 1 - rgba[:, 3:]], axis=1).astype(np.float32)
