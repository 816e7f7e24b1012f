"""Part masks: `parts/` beside `images/`, with the object and its part under each pixel.

A mask has the name and size of its image; each value is 16 x object + part, 0 the background. `parts/names.json` names
the parts. Nothing else ties the masks to a dataset, so any tool can write them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.core.json_schema import StrictModel, validate
from detrscope.core.text_files import read_json_text

NAMES_FILE = "names.json"
VALUES_PER_OBJECT = 16  # 15 parts and 16 objects fit 8 bits
_ENCODING = (
    f"{VALUES_PER_OBJECT} x object + part; 0 is background; object: index among the annotations of the image"
)


class PartMask(NamedTuple):
    """The part and the object under each pixel of an image."""

    parts: np.ndarray  # [H, W] uint8, number of the part, 0 where there is no object
    instance: np.ndarray  # [H, W] uint8, 1 + index of the annotation, 0 where there is no object
    names: tuple[str, ...]  # of the parts 1, 2, ...


class _NamesFile(StrictModel):
    value: str
    parts: list[str]


def has_part_mask(image: Path) -> bool:
    """Return whether an image, a file in `images/`, has a part mask."""
    return _mask_path(image).is_file()


def read_part_mask(image: Path) -> PartMask:
    """Read the part mask of an image.

    Args:
        image: File in `images/`.

    Raises:
        UserError: there is no mask, or `parts/names.json` is missing or of another format.
    """
    path = _mask_path(image)
    try:
        with Image.open(path) as mask:
            values = np.asarray(mask)
    except OSError:
        raise UserError(f"{path}: no part mask that can be read; expected one for each image") from None
    names = path.parent / NAMES_FILE
    if not names.is_file():
        raise UserError(
            f"{path.parent}: has part masks but no {NAMES_FILE}, which names the parts; draw drawn dogs again, or "
            f'write {{"value": "{_ENCODING}", "parts": ["name of part 1", ...]}}'
        )
    fields = validate(_NamesFile, read_json_text(names), str(names))
    parts = values % VALUES_PER_OBJECT
    instance = np.where(parts > 0, values // VALUES_PER_OBJECT + 1, 0).astype(np.uint8)
    return PartMask(parts, instance, tuple(fields.parts))


def write_part_names(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the parts 1, 2, ... into a folder of part masks."""
    tree = {"value": _ENCODING, "parts": list(names)}
    (folder / NAMES_FILE).write_text(json.dumps(tree, indent=1), encoding="utf-8")


def encode_part_mask(parts: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Return the [H, W] uint8 values of a mask from its parts and instances, as in `PartMask`."""
    return np.where(instance > 0, VALUES_PER_OBJECT * (instance - 1) + parts, 0).astype(np.uint8)


def _mask_path(image: Path) -> Path:
    return image.parent.parent / "parts" / image.name
