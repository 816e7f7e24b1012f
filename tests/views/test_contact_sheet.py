"""Sheets of tiles."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrscope.views.canvas import class_colours
from detrscope.views.contact_sheet import GAP, MAX_LABELS, Tile, contact_sheet


def tile(height: int, width: int, value: int, names: tuple[str, ...] = ("cat",)) -> Tile:
    boxes = torch.tensor([[10.0, 20, width / 2, height / 2]] * len(names)).reshape(-1, 4)
    image = torch.tensor([value, 0, 200], dtype=torch.uint8)[:, None, None].expand(3, height, width)
    return Tile(image, boxes, names, f"tile {value}")


def of_tile(pixels: np.ndarray, value: int) -> np.ndarray:
    """Where the sheet shows that tile. [H, W] bool"""
    return np.asarray((pixels == (value, 0, 200)).all(axis=2))


def test_tiles_lie_in_rows_with_their_boxes(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    contact_sheet([tile(100, 150, 10), tile(100, 150, 20), tile(80, 150, 30)], path, columns=2)
    with Image.open(path) as image:
        pixels = np.asarray(image)
    colour = class_colours(["cat"])["cat"]
    tops = []
    for value in (10, 20, 30):
        rows, columns = np.nonzero(of_tile(pixels, value))
        tops.append((int(rows.min()), int(columns.min())))
    (y1, x1), (y2, x2), (y3, x3) = tops
    assert (x1, x3) == (GAP, GAP) and x2 == GAP + 150 + GAP
    assert y1 == y2 and y3 > y1 + 100
    assert (pixels[y1 + 49, x1 + 10 : x1 + 75] == colour).all()  # lower edge of the first tile's box
    assert (pixels[y2 + 30, x2 + 10] == colour).all()
    assert of_tile(pixels, 10)[y1 + 99, x1 + 149] and (pixels[y1 + 100, x1 + 149] == 255).all()


def test_large_images_and_their_boxes_are_scaled() -> None:
    pixels = contact_sheet([tile(1000, 2000, 10)], tile_size=200).pixels()
    rows, columns = np.nonzero(of_tile(pixels, 10))
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == (200, 100)
    colour = class_colours(["cat"])["cat"]
    assert (pixels[rows.min() + 49, columns.min() + 5 : columns.min() + 99] == colour).all()


def test_no_tiles_and_no_boxes_are_drawn() -> None:
    assert contact_sheet([]).pixels().shape[2] == 3
    pixels = contact_sheet([tile(50, 50, 10, names=())]).pixels()
    assert of_tile(pixels, 10).sum() == 2500


def test_crowded_tiles_have_colours_and_no_names() -> None:
    few = contact_sheet([tile(300, 300, 10, ("cat",) * MAX_LABELS)]).pixels()
    many = contact_sheet([tile(300, 300, 10, ("cat",) * (MAX_LABELS + 1))]).pixels()
    colour = class_colours(["cat"])["cat"]

    def plates(pixels: np.ndarray) -> int:
        return int((pixels[:-40] == colour).all(axis=2).sum())  # the legend apart

    assert plates(few) > 2 * plates(many) > 0
