"""The picture of all explanation methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrscope.lens.explained import ExplainedDetection, map_of_weights
from detrscope.views.explanations import draw_explanations
from tests.support.traces import traced


def test_every_method_has_a_panel_in_every_row(tmp_path: Path) -> None:
    trace = traced("detr-r18")
    weights = torch.zeros(trace.tokens)
    weights[0] = 1.0
    box = torch.tensor([5, 5, 40, 30])
    maps = {name: map_of_weights(trace, weights, trace.geometry) for name in "abcdefgh"}
    few = ExplainedDetection(trace, 2, box, {"a": maps["a"]})
    many = ExplainedDetection(trace, 2, box, maps)
    low = draw_explanations([few], "box").pixels()
    high = draw_explanations([many, many], "badge", tmp_path / "maps.png").pixels()
    assert low.shape[1] == high.shape[1] and high.shape[0] > 2.5 * low.shape[0], (
        "nine panels take two rows each"
    )
    assert np.asarray(Image.open(tmp_path / "maps.png").convert("RGB")).std() > 10


def test_weights_become_the_map_of_their_tokens() -> None:
    trace = traced("sprint-deformable-n")
    weights = torch.arange(trace.tokens)
    found = map_of_weights(trace, weights, trace.geometry)
    assert torch.equal(torch.cat([part.flatten() for part in found.parts]), weights.float())
    assert float(found.on_image().sum()) == pytest.approx(float(weights.sum()), rel=1e-3)
