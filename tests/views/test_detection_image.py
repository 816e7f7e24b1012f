"""Pictures of detections."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.core.types import Detections
from detrscope.views.canvas import class_colours
from detrscope.views.detection_image import SMALL, draw_detections

IMAGE = torch.full((3, 300, 480), 90, dtype=torch.uint8)


def found(boxes: list[list[float]], names: tuple[str, ...]) -> Detections:
    n = len(boxes)
    scores = torch.linspace(0.9, 0.5, n)
    ids = torch.arange(n)
    return Detections(torch.tensor(boxes).reshape(-1, 4), scores, ids, names, ids, 300, 480)


def outline(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((pixels == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_boxes_are_at_their_pixels_in_the_colour_of_their_class(tmp_path: Path) -> None:
    detections = found([[100, 60, 180, 200], [300, 100, 400, 250]], ("cat", "dog"))
    path = tmp_path / "a.png"
    draw_detections(IMAGE, detections, path)
    with Image.open(path) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (300, 480, 3)
    colours = class_colours(["cat", "dog"])
    below_labels = slice(90, None)  # both labels lie above their boxes
    for name, x0, x1, y1 in (("cat", 100, 180, 200), ("dog", 300, 400, 250)):
        assert (pixels[y1 - 1, x0:x1] == colours[name]).all()
        assert (pixels[below_labels][20 : y1 - 90, x0] == colours[name]).all()
        assert (pixels[y1 - 20, x0 + 10 : x1 - 10] == 90).all()  # nothing inside
        assert outline(pixels, colours[name])[2:] == (x1, y1)


def test_the_image_itself_is_not_changed() -> None:
    before = IMAGE.clone()
    draw_detections(IMAGE, found([[0, 0, 10, 10]], ("cat",)))
    assert torch.equal(IMAGE, before)


def test_no_detections_leave_the_image() -> None:
    assert (draw_detections(IMAGE, found([], ())).pixels() == 90).all()


def test_boxes_beyond_the_edge_are_cut_off_there() -> None:
    pixels = draw_detections(IMAGE, found([[-50, 100, 600, 400]], ("cat",))).pixels()
    assert outline(pixels, class_colours(["cat"])["cat"]) == (0, pytest.approx(90, abs=12), 480, 300)


def test_tiny_images_are_enlarged_by_whole_pixels() -> None:
    image = torch.randint(0, 255, (3, 20, 32), dtype=torch.uint8)
    pixels = draw_detections(image, found([], ())).pixels()
    assert pixels.shape[1] >= SMALL and pixels.shape[1] % 32 == 0
    k = pixels.shape[1] // 32
    assert (pixels[::k, ::k] == image.permute(1, 2, 0).numpy()).all()
    box = draw_detections(image, found([[8, 4, 16, 12]], ("cat",))).pixels()
    assert outline(box, class_colours(["cat"])["cat"])[2:] == (16 * k, 12 * k)


def test_title_is_above_the_image() -> None:
    detections = found([[100, 60, 180, 200]], ("cat",))
    plain, titled = (draw_detections(IMAGE, detections, title=t).pixels() for t in ("", "detr-r50"))
    strip = titled.shape[0] - plain.shape[0]
    assert strip > 10
    assert (titled[strip:] == plain).all()
    assert (titled[:strip] == 255).any() and (titled[:strip] < 50).any()


def test_large_images_have_larger_text() -> None:
    large = torch.full((3, 3000, 4000), 90, dtype=torch.uint8)
    pixels = draw_detections(large, found([[1000, 1000, 2000, 2000]], ("cat",))).pixels()
    rows = np.nonzero((pixels != 90).any(axis=(1, 2)))[0]
    assert 1000 - rows.min() > 50
