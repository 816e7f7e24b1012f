"""Heads of a point, and one query through the layers."""

from __future__ import annotations

import numpy as np
import pytest

from detrscope.views import draw
from detrscope.views.canvas import class_colours
from detrscope.views.options import ViewOptions
from tests.support.figures import (
    FINE,
    brightest,
    images,
    made,
    middle,
    outlined,
    peaked,
    texts,
)

DOG = class_colours(["cell", "dog", "far"])["dog"]


def test_by_layer_shows_each_layer_and_the_previous_box() -> None:
    record = peaked([[(1, 1), (2, 2), (3, 3)]])
    sheet = draw(made({"decoder.0.cross": record, "decoder.1.cross": record}), "by-layer")
    written = texts(sheet)
    assert (
        written.index("layer 0")
        < written.index("dog 0.50")
        < written.index("layer 1")
        < written.index("dog 0.90")
    )
    assert {"decoder.0.cross", "decoder.1.cross"} <= set(written)
    first, _, second, _ = outlined(sheet, DOG)
    dashed = [b for b in outlined(sheet, (255, 255, 255)) if b[2] - b[0] > 20]
    (before,) = dashed
    panels = [place[0] for values, place in images(sheet) if values.shape[-1] == 3]
    pitch = panels[2] - panels[0]
    np.testing.assert_allclose(before - (pitch, 0, pitch, 0), first, atol=1)
    assert second[0] < before[0], "it moved to the left by 4 pixels"


def test_heads_of_a_point_are_encoder_heads() -> None:
    row, column, looks_at = 6, 2, [(1, 12), (8, 3)]
    heads = []
    for cell in looks_at:
        heads.append([(0, 0)] * (FINE.height * FINE.width))
        heads[-1][row * FINE.width + column] = cell
    sheet = draw(made({"encoder.0.self": peaked(heads)}), "heads", ViewOptions(points=((11.0, 25.0),)))
    shown = images(sheet)  # a picture and a map for each head, and for their mean
    for head, cell in enumerate(looks_at):
        (_, panel), veil = shown[2 * head : 2 * head + 2]
        assert brightest(*veil, panel) == pytest.approx(middle(cell), abs=0.5)
    assert "self-attention at encoder.0.self, token at (11, 25)" in sheet.caption
    assert {"head 0", "head 1", "mean of heads", "layer 0"} <= set(texts(sheet))
