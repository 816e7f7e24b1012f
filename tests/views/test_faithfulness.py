"""The curves of faithfulness as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detrscope.lens.deletion_curves import Curve, summarise_curves
from detrscope.views.faithfulness import TITLES, draw_faithfulness


def test_four_panels_with_a_line_for_each_method(tmp_path: Path) -> None:
    curves = [
        Curve(method, where, what, 0, (1.0, end, end))
        for method, end in (("rollout", 0.2), ("random", 0.8))
        for where, what in TITLES
    ]
    picture = draw_faithfulness(summarise_curves(curves), tmp_path / "f.svg", title="two methods")
    panels = picture.figure().axes
    assert len(panels) == 4 and (tmp_path / "f.svg").read_text().startswith("<?xml")
    for ax in panels:
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels == ["0.400 rollout", "0.850 random"]
        np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata()), [0, 0.5, 1])
        np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), [1, 0.2, 0.2])
        assert ax.lines[1].get_color() == "black"
