"""Sketches: patterns on parts, and mirroring."""

from __future__ import annotations

import numpy as np
import pytest

from detrscope.synthetic import parts as part
from detrscope.synthetic.sketch import Sketch, blob, tube


def test_a_pattern_stays_on_its_part() -> None:
    sketch = Sketch()
    sketch.solid(part.BODY, (200, 100, 50), blob(0, 0, 1, 0.5))
    before = sketch.render(80)
    sketch.pattern(part.BODY, part.FUR, (0, 0, 255), tube([(-2, 0), (2, 0)], [0.1, 0.1]))
    wide = sketch.render(80 * 4.2 / 2.06)  # the pattern reaches out of the blob, so the scale differs
    rows, columns = np.nonzero(wide.parts == part.FUR)
    assert len(rows) > 200 and (wide.parts > 0).sum() == pytest.approx((before.parts > 0).sum(), rel=0.1)
    middle = np.asarray(wide.image)[rows, columns]
    assert (middle[:, 2] > middle[:, 0]).all()
    assert not wide.parts[:, : wide.parts.shape[1] // 5].any()  # where there is no body


def test_a_mirrored_sketch_is_the_mirror_image() -> None:
    sketch = Sketch(light=(0, -1))
    sketch.solid(1, (200, 100, 50), blob(0, 0, 1, 1))
    sketch.solid(2, (50, 100, 200), blob(1.5, -0.5, 0.5, 0.5))
    right, left = sketch.render(100), sketch.render(100, mirror=True)
    assert (right.parts[:, ::-1] != left.parts).mean() < 0.03
    columns = np.nonzero(right.parts == 2)[1]
    assert columns.mean() > np.nonzero(left.parts == 2)[1].mean() + 30
