"""Places of tokens and encodings of boxes against what the formulas say, token by token."""

from __future__ import annotations

import math

import torch

from detrscope.core.types import Level
from detrscope.ops.position import (
    inverse_sigmoid,
    position_as_box,
    position_valid_ratios,
    positions_of_pyramid,
    sine_boxes,
)

LEVELS = (Level(4, 6), Level(2, 3))


def padding() -> torch.Tensor:
    """The second of two images fills three rows and four columns of the first map, one and two of the second."""
    maps = [torch.zeros(2, *level, dtype=torch.bool) for level in LEVELS]
    maps[0][1, 3:], maps[0][1, :, 4:] = True, True
    maps[1][1, 1:], maps[1][1, :, 2:] = True, True
    return torch.cat([m.flatten(1) for m in maps], dim=1)


def test_valid_ratios_are_the_shares_of_the_image() -> None:
    ratios = position_valid_ratios(padding(), LEVELS, torch.zeros(()))
    expected = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[4 / 6, 3 / 4], [2 / 3, 1 / 2]]])
    torch.testing.assert_close(ratios, expected)
    assert position_valid_ratios(None, LEVELS, torch.zeros(())).tolist() == [[[1, 1], [1, 1]]]


def test_pyramid_centres_are_cell_centres_of_the_unpadded_image() -> None:
    centres = positions_of_pyramid(padding(), LEVELS, torch.zeros(()))
    assert centres.shape == (2, 30, 2)
    for image, sizes in enumerate((((6, 4), (3, 2)), ((4, 3), (2, 1)))):
        expected = [
            ((x + 0.5) / inside[0], (y + 0.5) / inside[1])
            for level, inside in zip(LEVELS, sizes, strict=True)
            for y in range(level.height)
            for x in range(level.width)
        ]
        torch.testing.assert_close(centres[image], torch.tensor(expected))
    torch.testing.assert_close(positions_of_pyramid(None, LEVELS, torch.zeros(())), centres[:1])
    assert positions_of_pyramid(None, LEVELS, torch.zeros((), dtype=torch.bfloat16)).dtype == torch.float32


def test_sine_boxes_interleave_sines_and_cosines_of_each_number() -> None:
    box = torch.tensor([0.1, 0.4, 0.7, 1.0])
    found = sine_boxes(box[None, None], 6)
    assert found.shape == (1, 1, 24)
    expected = []
    for number in box.tolist():
        for pair in range(3):
            angle = number * 2 * math.pi / 10000 ** (2 * pair / 6)
            expected += [math.sin(angle), math.cos(angle)]
    torch.testing.assert_close(found[0, 0], torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_points_become_boxes_of_logit_zero() -> None:
    points = torch.tensor([[0.2, 0.9]])
    boxes = position_as_box(points)
    torch.testing.assert_close(boxes[:, :2], points)
    assert torch.equal(inverse_sigmoid(boxes)[:, 2:], torch.zeros(1, 2))
    assert position_as_box(boxes) is boxes
