"""Models side by side: every column has the image, its title and only its own boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.views.side_by_side import GAP, LARGEST, SMALLEST, Column, draw_side_by_side

BOX = torch.tensor([[10.0, 20, 60, 50]])


def grey(width: int, height: int) -> torch.Tensor:
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def test_boxes_are_in_their_own_columns(tmp_path: Path) -> None:
    columns = [
        Column("ground truth", BOX, ("cell",), ("cell",)),
        Column("first", BOX + 300, ("cell",), ("cell 0.9",)),
        Column("second", torch.zeros(0, 4), (), ()),
    ]
    drawing = draw_side_by_side(grey(500, 400), columns, tmp_path / "row.png")
    first, second = (box.xyxy for box in drawing.boxes)
    strip = drawing.background.shape[0] - 400
    assert first == (10, 20 + strip, 60, 50 + strip)
    assert second == (310 + 500 + GAP, 320 + strip, 360 + 500 + GAP, 350 + strip)
    assert drawing.background.shape[1] == 3 * 500 + 2 * GAP
    with Image.open(tmp_path / "row.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[strip:, 2 * (500 + GAP) :] == 90).all()  # nothing on the column without boxes
    assert (pixels[strip:, :500] != 90).any()
    assert {"ground truth", "first", "second"} <= {label.text for label in drawing.labels}


@pytest.mark.parametrize(("side", "expected"), [(100, SMALLEST), (4000, LARGEST)])
def test_images_are_enlarged_or_reduced_with_their_boxes(side: int, expected: int) -> None:
    corner = torch.tensor([[side / 2, side / 2, side, side]])
    drawing = draw_side_by_side(grey(side, side), [Column("", corner, ("a",), ("a",))])
    strip = drawing.background.shape[0] - expected
    assert drawing.background.shape[1] == expected
    assert drawing.boxes[0].xyxy == (expected / 2, expected / 2 + strip, expected, expected + strip)


def test_boxes_outside_the_image_stay_in_their_column() -> None:
    outside = torch.tensor([[-50.0, -50, 900, 900]])
    columns = [Column("", outside, ("a",), ("a",)), Column("", outside, ("a",), ("a",))]
    drawing = draw_side_by_side(grey(500, 400), columns)
    strip = drawing.background.shape[0] - 400
    assert [box.xyxy[0] for box in drawing.boxes] == [0, 500 + GAP]
    assert all(box.xyxy[1] == strip and box.xyxy[3] == strip + 400 for box in drawing.boxes)
