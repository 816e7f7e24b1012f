"""Pictures of detections."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from detrscope.core.types import Detections
from detrscope.views.canvas import ImageOverlay, class_colours, text_size, with_heatmap
from detrscope.views.canvas.fonts import DEFAULT_FONT
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


def test_pixels_are_those_that_pillow_draws() -> None:
    detections = found([[100, 60, 180, 200], [-20, 250, 40, 310], [470, 5, 490, 7]], ("cat", "dog", "cat"))
    drawing = draw_detections(IMAGE, detections, title="a title")
    assert isinstance(drawing, ImageOverlay)
    image = Image.fromarray(drawing.background)
    draw = ImageDraw.Draw(image)
    for box in drawing.boxes:
        x0, y0, x1, y1 = (round(value) for value in box.xyxy)
        x1, y1 = max(x1, x0 + box.width), max(y1, y0 + box.width)
        width = min(box.width, (min(x1 - x0, y1 - y0) + 1) // 2)
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=box.colour, width=width)
    for label in drawing.labels:
        assert label.background is not None
        (x, y), (width, height) = label.xy, text_size(label.text, label.size)
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=label.background)
        font = ImageFont.truetype(str(DEFAULT_FONT), label.size)
        middle = (round(x) + label.size // 4, round(y) + height // 2)
        draw.text(middle, label.text, fill=label.text_colour, font=font, anchor="lm")
    assert (drawing.pixels() == np.asarray(image)).all()
    assert (drawing.pixels() == drawing.pixels()).all() and (drawing.background != drawing.pixels()).any()


def test_labels_have_the_numbers_of_tracks() -> None:
    detections = found([[100, 60, 180, 200], [300, 100, 400, 250]], ("cat", "dog"))
    drawing = draw_detections(IMAGE, replace(detections, track_ids=torch.tensor([12, -1])))
    assert isinstance(drawing, ImageOverlay)
    assert {label.text for label in drawing.labels} == {"cat #12 0.90", "dog 0.50"}


def test_heatmap_is_bright_where_the_map_is() -> None:
    values = np.zeros((300, 480), np.float32)
    values[100:200, 100:200] = 3.0
    image = IMAGE.permute(1, 2, 0).numpy().copy()
    image[:, 240:] = (200, 30, 30)
    pixels = with_heatmap(image, values).astype(int)
    assert pixels.shape == (300, 480, 3)
    outside = pixels[:, 210:]
    assert (outside == outside[..., :1]).all()  # grey
    assert outside.min() > 90 and outside.max() < 220  # pale
    assert (
        pixels[150, 150, 0] > 200 and pixels[150, 150, 0] - pixels[150, 150, 2] > 60
    )  # the end of the scale
    assert (with_heatmap(image, 0 * values)[150, 150] == with_heatmap(image, values)[10, 10]).all()
