"""Sampling points of deformable attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detrscope.views import VIEWS, draw
from detrscope.views.options import ViewOptions
from detrscope.views.points import sampling_points
from detrscope.views.viewport import Viewport
from tests.support.figures import (
    COARSE,
    FINE,
    images,
    made,
    sampled,
    texts,
)


def test_sampling_points_have_position_and_colour_of_weight() -> None:
    points = torch.tensor([[30.0, 20.0], [10.0, 6.0], [50.0, 35.0], [-20.0, 5.0]]).expand(1, 3, 4, 2)
    weights = torch.tensor([0.1, 0.6, 0.2, 0.1]).expand(1, 3, 4)
    record = sampled(points, weights, (0, 0, 1, 0))
    trace = made({"decoder.1.cross": record}, (FINE, COARSE))
    found = sampling_points(trace, "decoder.1.cross", 2)
    np.testing.assert_allclose(found.xy[0], points[0, 2], atol=1e-4)
    sheet = draw(trace, "points")
    panel = images(sheet)[0][1]
    fine = sheet.figure().axes[0].collections[1]  # over the coarse one
    place = (np.asarray(fine.get_offsets()) - panel[:2]) / (panel[2] - panel[0]) * 60
    np.testing.assert_allclose(place, [[30, 20], [10, 6]], atol=1e-3)  # the weakest first, none outside
    lightness = fine.get_facecolor()[:, :3].sum(-1)
    assert lightness[1] > lightness[0] and fine.get_facecolor()[1, 3] > fine.get_facecolor()[0, 3]
    assert "4 points, 1 outside the image" in texts(sheet) and "3 points, 1 outside the image" in texts(sheet)
    assert "level 1" in texts(sheet) and "level 1 (6x9 tokens)" in texts(sheet)
    assert "sums to 0.900" in texts(sheet), "one tenth fell outside; nothing is renormalised"


def test_close_points_are_zoomed_in() -> None:
    xy = torch.tensor([[20.0, 15.0], [22.0, 16.0]]).expand(1, 3, 2, 2)
    trace = made(
        {
            "decoder.1.cross": sampled(
                xy, torch.full((1, 3, 2), 0.5), (0, 0), torch.tensor([[21.0, 15.0]] * 3)
            )
        },
        (FINE, COARSE),
    )
    whole = Viewport.of(trace)
    near = whole.zoomed_to(xy[0, 0].numpy())
    x0, y0, x1, y1 = near.window
    assert (x1 - x0) / (y1 - y0) == pytest.approx(1.5) and 0.15 < (x1 - x0) / 60 < 0.3
    assert (x0 + x1) / 2 == pytest.approx(21, abs=0.1)
    corner = whole.zoomed_to(np.array([[0.0, 0.0], [1.0, 1.0]])).window
    assert corner[:2] == (0, 0), "a window does not leave the picture"
    assert whole.zoomed_to(np.array([[0.0, 0.0], [60.0, 40.0]])) is whole
    assert "zoomed in" in VIEWS["points-heads"](trace, ViewOptions()).caption
