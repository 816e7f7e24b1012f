"""Masks over an image: translucent inside, with an outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrscope.views.canvas.colours import Colour

OPACITY = 0.45  # of the inside of a mask


def with_masks(image: np.ndarray, masks: np.ndarray, colours: Sequence[Colour], line: int = 1) -> np.ndarray:
    """Return an image under masks, the first ones on top.

    Args:
        image: uint8 [H, W, 3].
        masks: bool [n, H, W].
        colours: one for each mask.
        line: width of the outline in pixels, inside of the mask.

    Returns:
        uint8 [H, W, 3].
    """
    painted = image.copy()
    for mask, colour in zip(masks[::-1], colours[::-1], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside, part = mask[window], painted[window]
        tint = np.array(colour, np.float32) * OPACITY
        part[inside] = (part[inside] * (1 - OPACITY) + tint).round().astype(np.uint8)
        part[inside & ~_eroded(inside, line)] = colour
    return painted


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return the pixels of a mask [H, W] that are more than `steps` from its border or from the edge."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        sides = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        mask = mask & sides
    return mask
