"""Badge masks: `badges/` beside `images/`, with the badge under each pixel of a drawing with badges.

A mask has the name and size of its image; each value is 1 + the index of the dog, among the annotations of the image,
whose badge covers the pixel, and 0 where there is none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from detrscope.core.errors import UserError

FOLDER = "badges"


def read_badge_mask(image: Path) -> np.ndarray:
    """Read the badge mask of an image: [H, W] uint8, 1 + index of the annotation, 0 where there is no badge.

    Args:
        image: File in `images/`.

    Raises:
        UserError: there is no mask that can be read.
    """
    path = image.parent.parent / FOLDER / image.name
    try:
        with Image.open(path) as mask:
            return np.asarray(mask.convert("L"))
    except OSError:
        raise UserError(
            f"{path}: no badge mask that can be read; draw dogs with badges (drawn-dogs:badge=class, "
            "or `detrscope data draw --badge class`)"
        ) from None


def write_badge_mask(path: Path, instance: np.ndarray) -> None:
    """Write a badge mask [H, W] uint8 as a grey PNG."""
    Image.fromarray(instance).save(path, format="PNG", compress_level=1)
