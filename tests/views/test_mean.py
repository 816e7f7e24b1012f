"""The mean map of all queries."""

from __future__ import annotations

import numpy as np
import pytest

from detrscope.views import draw
from tests.support.figures import (
    images,
    made,
    middle,
    peaked,
)

HOTTEST, COLDEST = (252, 255, 164), (0, 0, 4)  # of matplotlib's inferno


def test_mean_map_has_the_colours_of_its_scale() -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)], [(0, 0), (0, 0), (7, 9)]])})
    sheet = draw(trace, "mean")
    (alone, place), panel = images(sheet)[-1], images(sheet)[-2][1]
    assert panel[2] - panel[0] == pytest.approx(1.5 * (panel[3] - panel[1]), rel=0.01)
    across = (
        alone.shape[1] / (place[2] - place[0]) * (panel[2] - panel[0]) / 60
    )  # pixels of the map per original one
    for cell in ((2, 5), (7, 9)):
        x, y = middle(cell)
        np.testing.assert_allclose(alone[int(y * across), int(x * across), :3], HOTTEST, atol=8)
    np.testing.assert_allclose(alone[int(30 * across), int(10 * across), :3], COLDEST, atol=1)
    ticks = [float(t.get_text()) for t in sheet.figure().axes[1].get_yticklabels()]
    assert max(ticks) <= 0.5 < max(ticks) + 0.2, "two heads, one half each"
    assert "mean of 2 heads" in sheet.caption and "weights of a map sum to 1.000" in sheet.caption
