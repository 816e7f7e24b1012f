"""Part masks: written, read, and refused without names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detrscope.core.errors import UserError
from detrscope.data.part_masks import (
    NAMES_FILE,
    encode_part_mask,
    has_part_mask,
    read_part_mask,
    write_part_names,
)

PARTS = np.array([[0, 1, 2], [0, 2, 2]], dtype=np.uint8)
INSTANCE = np.array([[0, 1, 1], [0, 2, 2]], dtype=np.uint8)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of any tool's dataset, with a part mask."""
    (tmp_path / "parts").mkdir()
    Image.fromarray(encode_part_mask(PARTS, INSTANCE)).save(tmp_path / "parts" / "a.png")
    write_part_names(tmp_path / "parts", ["wheel", "door"])
    return tmp_path / "images" / "a.png"


def test_written_part_mask_is_read_back(image: Path) -> None:
    assert has_part_mask(image)
    parts, instance, names = read_part_mask(image)
    assert np.array_equal(parts, PARTS) and np.array_equal(instance, INSTANCE)
    assert names == ("wheel", "door")


def test_missing_part_mask_is_named(tmp_path: Path) -> None:
    assert not has_part_mask(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"parts.a\.png: no part mask"):
        read_part_mask(tmp_path / "images" / "a.png")


def test_part_masks_without_names_are_refused(image: Path) -> None:
    names = image.parent.parent / "parts" / NAMES_FILE
    names.write_text('{"value": "?", "parts": [1]}')
    with pytest.raises(UserError, match=r"names\.json: parts\.0: "):
        read_part_mask(image)
    names.unlink()
    with pytest.raises(UserError, match=r"parts: has part masks but no names\.json"):
        read_part_mask(image)
