"""One attention map."""

from __future__ import annotations

import pytest

from detrscope.views.attention import draw_attention
from detrscope.views.viewport import viewport_cells
from tests.support.figures import (
    brightest,
    images,
    made,
    middle,
    peaked,
)


def test_attention_map_draws_itself() -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    attention = trace.cross_attention(query=2)
    sheet = draw_attention(attention)
    picture, veil = images(sheet)[:2]
    assert brightest(*veil, picture[1]) == pytest.approx(middle((2, 5)), abs=0.3)
    assert attention.caption in sheet.caption and "<img" in attention._repr_html_()
    values, extent = viewport_cells(attention)
    assert values.shape == (10, 15) and extent == (0, 0, 60, 40)
