"""Mass in masks of any shape, against counting it pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from detrscope.core.geometry import Geometry
from detrscope.core.types import Level
from detrscope.lens.metrics import mass_in
from detrscope.lens.token_coverage import area_covered_by_masks, cover_of_masks

FINE = 6  # sub-pixels along a side of a pixel


def counted(mask: np.ndarray, geometry: Geometry, level: Level) -> np.ndarray:
    """The share of each cell's points on the image whose pixel is in the mask, by asking every sub-pixel in turn."""
    inside, every = np.zeros(level), np.zeros(level)
    across, down = geometry.scale
    for i in range(geometry.height * FINE):
        for j in range(geometry.width * FINE):
            y, x = (i + 0.5) / FINE, (j + 0.5) / FINE
            row = math.floor(y * down / geometry.padded[0] * level.height)
            column = math.floor(x * across / geometry.padded[1] * level.width)
            every[row, column] += 1
            inside[row, column] += mask[math.floor(y), math.floor(x)]
    return np.divide(inside, every, out=np.zeros(level), where=every > 0).ravel()


@pytest.mark.parametrize(
    ("geometry", "levels"),
    [
        (Geometry.of_resize(12, 16, (24, 32)), (Level(3, 4),)),
        (Geometry.of_resize(12, 18, (12, 18)), (Level(6, 6), Level(2, 3))),
        (replace(Geometry.of_resize(10, 12, (20, 24)), padded=(30, 36)), (Level(5, 6),)),
    ],
)
def test_cell_shares_equal_pixel_counts(geometry: Geometry, levels: tuple[Level, ...]) -> None:
    masks = np.random.default_rng(0).random((3, geometry.height, geometry.width)) < 0.4
    found = cover_of_masks(torch.from_numpy(masks), geometry, levels).numpy()
    wanted = np.stack([np.concatenate([counted(m, geometry, level) for level in levels]) for m in masks])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_parts_of_the_image_share_all_attention() -> None:
    geometry = Geometry.of_resize(30, 40, (30, 40))
    levels = (Level(6, 8), Level(3, 4))
    owner = torch.randint(0, 4, (30, 40), generator=torch.Generator().manual_seed(0))
    masks = torch.stack([owner == i for i in range(4)])
    rows = torch.rand(5, 60, generator=torch.Generator().manual_seed(1)).softmax(-1)
    masses = mass_in(rows[:, None], cover_of_masks(masks, geometry, levels))
    assert masses.shape == (5, 4)
    torch.testing.assert_close(masses.sum(1), torch.ones(5))
    torch.testing.assert_close(area_covered_by_masks(masks).sum(), torch.tensor(1.0))


def test_uniform_attention_gives_each_part_its_area() -> None:
    geometry = Geometry.of_resize(24, 32, (48, 64))
    mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    mask[0, 5:17, 3:10] = True
    cells = cover_of_masks(mask, geometry, [Level(6, 8)])
    torch.testing.assert_close(mass_in(torch.full((48,), 1 / 48), cells), area_covered_by_masks(mask))
    mask[:] = False
    mask[0, 4:8, 8:12] = True  # exactly cell (1, 2)
    row = torch.zeros(2, 48)
    row[0, 1 * 8 + 2], row[1, 0] = 1, 1
    found = mass_in(row[:, None], cover_of_masks(mask, geometry, [Level(6, 8)]))
    torch.testing.assert_close(found, torch.tensor([[1.0], [0.0]]))
