"""The parts of a dog, as they are numbered in the part masks, and how a mask is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from detrscope.core.errors import UserError

BODY, HEAD, EARS, MUZZLE, LEGS, PAWS, TAIL, FUR = range(1, 9)
NAMES = {
    BODY: "body",
    HEAD: "head",
    EARS: "ears",
    MUZZLE: "muzzle",
    LEGS: "legs",
    PAWS: "paws",
    TAIL: "tail",
    FUR: "fur pattern",
}
PER_DOG = 16  # value in a part mask = 16 x dog + part


def read_parts(image: Path) -> tuple[np.ndarray, np.ndarray]:
    """What lies under each pixel of an image of drawn dogs.

    Args:
        image: the file in `images/`; its mask is in `parts/` beside that folder.

    Returns:
        parts [H, W] uint8, as in `NAMES`, and instance [H, W] uint8, 1 + the dog's place among the
        annotations of the image; both 0 where there is no dog.

    Raises:
        UserError: there is no part mask.
    """
    path = image.parent.parent / "parts" / image.name
    try:
        with Image.open(path) as mask:
            values = np.asarray(mask)
    except OSError:
        raise UserError(
            f"{path}: no part mask that can be read; drawn dogs have one for each image"
        ) from None
    parts = values % PER_DOG
    return parts, np.where(parts > 0, values // PER_DOG + 1, 0).astype(np.uint8)
