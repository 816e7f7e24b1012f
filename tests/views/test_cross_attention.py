"""Cross-attention of each query, and the mean map, on traces whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detrscope.views import draw
from detrscope.views.canvas import class_colours
from detrscope.views.options import ViewOptions
from tests.support.figures import (
    CELL,
    brightest,
    images,
    made,
    middle,
    outlined,
    peaked,
    texts,
)

CELLS = [(2, 5), (0, 0), (9, 14), (6, 2)]  # row, column of cells on the image, corners among them
DOG = class_colours(["cell", "dog", "far"])["dog"]
HOTTEST, COLDEST = (252, 255, 164), (0, 0, 4)  # of matplotlib's inferno


@pytest.mark.parametrize("cell", CELLS)
def test_map_peaks_at_its_cell_on_a_padded_image(cell: tuple[int, int]) -> None:
    trace = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), cell]] * 2)})
    picture, veil = images(draw(trace, "per-query"))[:2]
    x, y = brightest(*veil, picture[1])
    # At the edge the colour stays the same from the middle of the cell to the end of the picture.
    assert (x, y) == pytest.approx(middle(cell), abs=CELL / 2 + 0.1)
    assert veil[0][..., 3].max() > 200 and np.median(veil[0][..., 3]) == 0


def test_per_query_columns_have_title_and_box() -> None:
    trace = made({"decoder.1.cross": peaked([[(1, 1), (2, 2), (3, 3)]])})
    sheet = draw(trace, "per-query", ViewOptions(queries=(2, 0)))
    written = texts(sheet)
    assert written.index("query 2") < written.index("query 0") and "dog 0.90" in written
    panels = [place for values, place in images(sheet) if values.shape[-1] == 3]
    top, below = panels[0], panels[1]
    assert (top[0], top[2]) == (below[0], below[2]) and below[1] > top[3]
    boxes = outlined(sheet, DOG)
    scale = (below[2] - below[0]) / 60
    expected = np.array([12, 8, 36, 24]) * scale + np.array([below[0], below[1]] * 2)
    np.testing.assert_allclose(boxes[0], expected, atol=1.6)  # half a line inside


def test_only_detections_are_cut_to_the_best() -> None:
    record = peaked([[(2, 5)] * 30])
    logits = torch.full((2, 30, 4), 0.1)
    logits[:, :, 1] = torch.linspace(0.6, 0.9, 30)
    trace = made({"decoder.1.cross": record}, logits=logits.log(), boxes_cxcywh=torch.full((2, 30, 4), 0.4))
    sheet = draw(trace, "per-query")
    assert "the best 21 of 30 detections" in sheet.caption and "21 of 30 queries" in sheet.heading
    assert sum(t.startswith("query ") for t in texts(sheet)) == 21
    chosen = draw(trace, "per-query", ViewOptions(queries=tuple(range(24))))
    assert "the best" not in chosen.caption and "24 of 30 queries" in chosen.heading
    labels = [t for t in texts(draw(trace, "mean")) if t.startswith("dog ")]
    assert len(labels) <= 20


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
