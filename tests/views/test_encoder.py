"""Encoder self-attention of points."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from detrscope.views import draw
from detrscope.views.options import ViewOptions
from tests.support.figures import (
    FINE,
    brightest,
    images,
    made,
    middle,
    peaked,
    texts,
)


def test_encoder_shows_the_point_and_its_map() -> None:
    row, column = 6, 2
    looks = [(0, 0)] * (FINE.height * FINE.width)
    looks[row * FINE.width + column] = (1, 12)
    sheet = draw(made({"encoder.0.self": peaked([looks])}), "encoder", ViewOptions(points=((11.0, 25.0),)))
    middle_panel, small, veil = images(sheet)
    assert brightest(*veil, small[1]) == pytest.approx(middle((1, 12)), abs=0.5)
    (dots,) = (c for c in sheet.figure().axes[0].collections if isinstance(c, PathCollection))
    x, y = np.asarray(dots.get_offsets())[0]
    place = middle_panel[1]
    assert (x - place[0]) / (place[2] - place[0]) * 60 == pytest.approx(11)
    assert (y - place[1]) / (place[3] - place[1]) * 40 == pytest.approx(25)
    np.testing.assert_allclose(dots.get_facecolor()[0], (1, 0, 0, 1))
    assert "1: token at (11, 25)" in texts(sheet) and "encoder.0.self" in sheet.caption
