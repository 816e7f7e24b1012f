"""The visible part of an image."""

from __future__ import annotations

from dataclasses import replace

import torch

from detrscope.core.attention_map import Selection
from detrscope.lens.maps import map_of_rows
from detrscope.views.viewport import Viewport, viewport_cells
from tests.support.figures import (
    GEOMETRY,
    made,
    peaked,
)


def test_crop_without_original_shows_the_crop() -> None:
    geometry = replace(GEOMETRY, width=100, crop_xyxy=(20.0, 0.0, 80.0, 40.0))
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])}, geometry=geometry)
    assert Viewport.of(trace).window == (20, 0, 80, 40)
    original = torch.zeros(3, 40, 100, dtype=torch.uint8)
    assert Viewport.of(replace(trace, original=original)).window == (0, 0, 100, 40)
    attention = map_of_rows(trace, Selection("decoder.1.cross", (2,)), "query 2")
    assert viewport_cells(attention)[1] == (20, 0, 80, 40)
