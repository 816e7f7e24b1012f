"""From a click on the original to the token and back, against pixels that really went the way."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.preprocessing import Preprocessing
from detrscope.core.types import Level
from detrscope.data.image_reader import read_upright


def stored_bytes(stored: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, format="PNG", exif=exif)
    return buffer.getvalue()


def strided(image: torch.Tensor, halvings: int) -> torch.Tensor:
    """A backbone that only blurs: 3x3 convolutions of stride 2, as every ResNet has them. [H, W] -> [h, w]."""
    x = image[None, None]
    for _ in range(halvings):
        x = F.conv2d(x, torch.ones(1, 1, 3, 3) / 9, stride=2, padding=1)
    return x[0, 0]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_token_at_point_covers_the_point(data: st.DataObject) -> None:
    """Light one pixel of a file; the brightest token of what the model saw is the one that the click finds."""
    width, height = data.draw(st.integers(24, 120)), data.draw(st.integers(24, 120))
    orientation = data.draw(st.integers(1, 8))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    turned = orientation >= 5
    whole = Geometry.of_resize(height, width, (height, width), orientation)
    sx, sy = whole.to_stored(torch.tensor([x + 0.5, y + 0.5])).tolist()
    stored = np.zeros((width, height, 3) if turned else (height, width, 3), dtype=np.uint8)
    stored[int(sy), int(sx)] = 255
    upright, found = read_upright(stored_bytes(stored, orientation))
    assert found == orientation and upright.shape == (3, height, width)
    assert upright[:, y, x].tolist() == [255, 255, 255]

    low_x, low_y = data.draw(st.integers(0, x)), data.draw(st.integers(0, y))
    crop = (low_x, low_y, data.draw(st.integers(x + 1, width)), data.draw(st.integers(y + 1, height)))
    if min(crop[2] - crop[0], crop[3] - crop[1]) < 8:
        crop = (0, 0, width, height)
    short = data.draw(st.integers(32, 140))
    part = upright[:, crop[1] : crop[3], crop[0] : crop[2]]
    seen = Preprocessing(short, 2 * short).resize(part).float().mean(0)
    right, below = data.draw(st.integers(0, 70)), data.draw(st.integers(0, 70))
    geometry = Geometry(
        height, width, tuple(map(float, crop)), tuple(seen.shape), tuple(seen.shape), orientation
    )
    geometry = geometry.padded_to(seen.shape[0] + below, seen.shape[1] + right)
    halvings = data.draw(st.integers(2, 4))
    cells = strided(F.pad(seen, (0, right, 0, below)), halvings)
    level = Level(*cells.shape)

    token = geometry.token_at(x + 0.5, y + 0.5, level)
    bright_row, bright_column = divmod(int(cells.argmax()), level.width)
    row, column = divmod(token, level.width)
    assert abs(row - bright_row) <= 1 and abs(column - bright_column) <= 1
    assert bool(geometry.inside(level).flatten()[token])
    middle = geometry.centres(level)[token]
    apart = (geometry.to_model(middle) - geometry.to_model(torch.tensor([x + 0.5, y + 0.5]))).abs()
    stride = torch.tensor([geometry.padded[1] / level.width, geometry.padded[0] / level.height])
    assert bool((apart <= stride).all()), "more than one stride away"
    back = geometry.to_original(geometry.to_model(torch.tensor([x + 0.5, y + 0.5])))
    torch.testing.assert_close(back, torch.tensor([x + 0.5, y + 0.5]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("padded", [(48, 64), (64, 96)])
def test_spreading_to_pixels_preserves_mass(smooth: bool, padded: tuple[int, int]) -> None:
    g = Geometry(37, 61, (5.0, 4.0, 53.0, 37.0), (48, 64), padded)
    level = Level(6, 8)
    values = torch.rand(level) * g.inside(level)
    down, across = g.spread(level, smooth)
    on_pixels = down @ values @ across.T
    assert on_pixels.shape == (37, 61)
    torch.testing.assert_close(on_pixels.sum(), values.sum())
    assert on_pixels[:4].abs().max() == 0 and on_pixels[:, :5].abs().max() == 0 and on_pixels.min() >= 0
    x = torch.arange(61) + 0.5
    centre = (on_pixels.sum(0) * x).sum() / values.sum()
    expected = (values.flatten() * g.centres(level)[:, 0]).sum() / values.sum()
    assert abs(float(centre - expected)) < 2.5  # of a cell 6 pixels wide


def test_even_spread_equals_nearest_neighbour() -> None:
    """Where cells are whole pixels the even spread is repeat_interleave."""
    g = Geometry.of_resize(24, 32, (24, 32))
    values = torch.rand(3, 4)
    down, across = g.spread(Level(3, 4))
    expected = values.repeat_interleave(8, 0).repeat_interleave(8, 1) / 64
    torch.testing.assert_close(down @ values @ across.T, expected)
    down, across = g.spread(Level(3, 4), smooth=True)
    bilinear = (
        F.interpolate(values[None, None], size=(24, 32), mode="bilinear", align_corners=False)[0, 0] / 64
    )
    torch.testing.assert_close(down @ values @ across.T, bilinear)


def test_boxes_and_points_of_a_crop() -> None:
    g = Geometry(100, 200, (50.0, 20.0, 150.0, 80.0), (120, 200), (128, 256))
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.1, 0.2]])
    expected = cxcywh_to_xyxy(boxes) * torch.tensor([100.0, 60.0, 100.0, 60.0]) + torch.tensor(
        [50.0, 20, 50, 20]
    )
    torch.testing.assert_close(g.boxes_xyxy(boxes), expected)
    torch.testing.assert_close(g.points_of(torch.tensor([200 / 256, 120 / 128])), torch.tensor([150.0, 80.0]))


def test_point_outside_the_crop_is_refused() -> None:
    g = Geometry(100, 200, (50.0, 20.0, 150.0, 80.0), (120, 200), (120, 200))
    for point in ((49, 50), (151, 50), (100, 19), (100, 81), (float("nan"), 50)):
        with pytest.raises(UserError, match=r"outside of the image: x 50 to 150, y 20 to 80"):
            g.token_at(*point, Level(4, 8))
    assert g.token_at(150, 80, Level(4, 8)) == 31, "the far corner belongs to the last cell"
