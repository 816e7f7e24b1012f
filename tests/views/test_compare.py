"""Two traces of one image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detrscope.core.edits import Gain
from detrscope.core.errors import UserError
from detrscope.views import draw
from detrscope.views.options import ViewOptions
from tests.support.figures import (
    COARSE,
    brightest,
    images,
    made,
    middle,
    peaked,
    texts,
)


def test_comparison_shows_where_maps_differ() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    second = made(
        {"decoder.1.cross": peaked([[(0, 0), (0, 0), (7, 10)]])}, edits=(Gain("decoder.1.cross", 1.0),)
    )
    same = images(draw(first, "compare", ViewOptions(against=first)))[-1][0]
    assert same[..., 3].max() == 0
    sheet = draw(first, "compare", ViewOptions(against=second))
    (values, place), panel = images(sheet)[-1], images(sheet)[-2][1]
    seen = values.astype(float) * (values[..., 3:] > 150)
    less, more = seen[..., 0] - seen[..., 2], seen[..., 2] - seen[..., 0]  # orange, purple
    for sign, cell in ((less, (2, 5)), (more, (7, 10))):
        assert brightest(np.clip(sign, 0, None)[..., None], place, panel) == pytest.approx(
            middle(cell), abs=1.5
        )
    assert "edited (decoder.1.cross: x1)" in sheet.caption and "the same query in both" in sheet.caption


def test_traces_of_other_images_are_not_compared() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    hidden = first.image.clone()
    hidden[:, :40] = 255  # half of it
    draw(first, "compare", ViewOptions(against=replace(first, image=hidden)))
    other = replace(first, image=torch.full_like(first.image, 255), source="other.png")
    with pytest.raises(
        UserError, match=r"traces of different images: the first and other.png differ in 100%"
    ):
        draw(first, "compare", ViewOptions(against=other))


def test_picked_queries_are_paired_by_overlap() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])}, notes={"epoch": 10})
    alike = ("the same query in both", "whose box overlaps most")
    edited = (Gain("decoder.1.cross", 1.0),), (Gain("encoder.0.self", 1.0),)
    for changes, expected in (
        ({"notes": {"epoch": 90}}, alike[0]),  # learned queries keep their numbers
        ({"notes": {"epoch": 90}, "picked": True}, alike[1]),
        ({"picked": True}, alike[0]),
        ({"picked": True, "edits": edited[0]}, alike[0]),
        ({"picked": True, "edits": edited[1]}, alike[1]),
    ):
        second = replace(first, **changes)
        assert expected in draw(first, "compare", ViewOptions(against=second)).caption, changes


def test_maps_on_other_grids_are_compared_by_mass() -> None:
    first = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (2, 5)]])})
    coarse = made({"decoder.1.cross": peaked([[(0, 0), (0, 0), (1, 2)]], COARSE)}, (COARSE,))
    card = replace(first.card, variant="another")
    sheet = draw(first, "compare", ViewOptions(against=replace(coarse, card=card)))
    fine, wide = (values for values, _ in images(sheet)[3::2][:2])
    assert fine.shape == wide.shape
    assert (fine[..., 3] > 20).sum() < (wide[..., 3] > 20).sum(), "the same mass over a larger cell"
    assert "whose box overlaps most" in sheet.caption and "query 2 (dog 0.90)" in texts(sheet)
