"""Objects of another image pasted on a training image: pixels, boxes, masks, and what they cover."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrscope.data.mixing import Labelled, Mixing

SIDE = 60


def image(colour: int, *boxes: tuple[int, int, int, int], masks: bool = False, side: int = SIDE) -> Labelled:
    """A black image with filled boxes of one grey; labels are the grey."""
    pixels = torch.zeros(3, side, side, dtype=torch.uint8)
    shapes = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for shape, (x0, y0, x1, y1) in zip(shapes, boxes, strict=True):
        pixels[:, y0:y1, x0:x1] = colour
        shape[y0:y1, x0:x1] = 1
    labels = torch.full((len(boxes),), colour)
    return Labelled(pixels, torch.tensor(boxes).float().view(-1, 4), labels, shapes if masks else None)


def pasted(seed: int, onto: Labelled, other: Labelled) -> Labelled:
    torch.manual_seed(seed)
    return Mixing.paste(onto, other)


def shares(found: Labelled, colour: int) -> list[float]:
    """How much of each box of a colour has that colour, or one near it where edges are interpolated."""
    boxes = found.boxes_xyxy[found.labels == colour].round().int().tolist()
    near = (found.pixels[0].int() - colour).abs() < 50
    return [float(near[y0:y1, x0:x1].float().mean()) for x0, y0, x1, y1 in boxes]


@pytest.mark.parametrize("masks", [False, True])
def test_boxes_lie_on_what_was_pasted(masks: bool) -> None:
    counts = set()
    for seed in range(40):
        # The other image is larger: what is pasted is shrunk to fit.
        other = image(200, (10, 20, 50, 60), (60, 70, 110, 100), masks=masks, side=120)
        found = pasted(seed, image(90, masks=masks), other)
        assert found.pixels.shape == (3, SIDE, SIDE)
        counts.add(len(found.labels))
        assert all(share > 0.75 for share in shares(found, 200)), seed
        assert (found.boxes_xyxy >= 0).all() and (found.boxes_xyxy <= SIDE).all()
        if not len(found.labels):
            assert not found.pixels.any()
        if masks:
            assert found.masks is not None and found.masks.shape == (len(found.labels), SIDE, SIDE)
    assert counts == {0, 1, 2}


def test_pasted_objects_are_mirrored_half_of_the_time() -> None:
    left_side = [
        float(found.boxes_xyxy[0, 0] + found.boxes_xyxy[0, 2]) / 2
        for seed in range(80)
        if len((found := pasted(seed, image(90), image(200, (0, 0, 8, 60)))).labels)
    ]
    # An object at the left edge of a part of 30 to 60 pixels, mirrored at its right edge.
    assert min(left_side) < 8 and max(left_side) > SIDE - 8


def test_an_object_that_is_covered_is_left_out() -> None:
    small, everything = image(90, (28, 28, 32, 32)), image(200, (0, 0, 60, 60))
    kept = set()
    for seed in range(60):
        found = pasted(seed, small, everything)
        visible = shares(found, 90)
        if visible:
            assert visible[0] >= 0.3
        else:
            x0, y0, x1, y1 = found.boxes_xyxy[0].tolist()  # of what covers it
            assert x0 <= 31 and y0 <= 31 and x1 >= 29 and y1 >= 29
        kept.add(len(visible))
    assert kept == {0, 1}


def test_masks_and_boxes_below_are_cut_at_what_covers_them() -> None:
    cut = 0
    for seed in range(200):
        found = pasted(seed, image(90, (10, 25, 50, 35), masks=True), image(200, (0, 0, 60, 60), masks=True))
        if len(found.labels) < 2:
            continue
        assert found.masks is not None and not (found.masks[0].bool() & found.masks[1].bool()).any()
        visible: Tensor = found.pixels[0] == 90
        assert torch.equal(found.masks[0].bool(), visible)
        rows, columns = visible.any(1).nonzero(), visible.any(0).nonzero()
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.boxes_xyxy[0].tolist() == [int(edge) for edge in expected]
        cut += found.boxes_xyxy[0].tolist() != [10, 25, 50, 35]
    assert cut > 5


def test_an_object_without_a_mask_is_not_pasted() -> None:
    other = image(200, (0, 0, 30, 60), (30, 0, 60, 60), masks=True)
    assert other.masks is not None
    other.masks[0] = 0
    assert {len(pasted(seed, image(90, masks=True), other).labels) for seed in range(40)} == {0, 1}


def test_empty_images_stay_empty() -> None:
    for masks in (False, True):
        found = pasted(0, image(90, masks=masks), image(200, masks=masks))
        assert len(found.labels) == 0 and found.boxes_xyxy.shape == (0, 4) and not found.pixels.any()
