"""Orders, scores, areas and correlations against numpy, scipy and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import sem, spearmanr
from torchvision.ops import box_iou

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.types import Outputs
from detrscope.lens.deletion_curves import (
    Curve,
    Detected,
    area_under,
    curve_detection_score,
    curve_fractions,
    deletion_order_mask,
    rank_correlation,
    summarise_curves,
)


def test_area_equals_numpy() -> None:
    scores = np.random.default_rng(0).random(17)
    assert area_under(scores.tolist()) == pytest.approx(float(np.trapezoid(scores, np.linspace(0, 1, 17))))
    assert area_under([1.0, 0.0]) == 0.5 and area_under([1.0, 1.0, 1.0]) == 1.0


def test_greatest_weights_come_first() -> None:
    weights = torch.tensor([0.1, 0.5, 0.5, 0.0, 0.9])
    first = deletion_order_mask(weights, torch.tensor([0, 1, 2, 3, 5]))
    assert [row.nonzero()[:, 0].tolist() for row in first] == [[], [4], [1, 4], [1, 2, 4], [0, 1, 2, 3, 4]]
    ties = torch.zeros(64)
    assert [*deletion_order_mask(ties, torch.tensor([40]))[0].nonzero()[:, 0]] == [*range(40)], "in order"
    torch.testing.assert_close(curve_fractions(4), torch.tensor([0, 0.25, 0.5, 0.75, 1]))


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_any_query_may_hold_the_detection(scoring: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, generator=generator)
    boxes = torch.rand(2, 3, 5, 4, generator=generator) * 0.4 + 0.3
    logits, boxes = (torch.cat([part, part.flip(0)[:1]]) for part in (logits, boxes))  # three layers
    detected = Detected(2, 1, boxes[-1, 0, 2])
    found = curve_detection_score(Outputs(logits, boxes), detected, scoring)  # type: ignore[arg-type]
    for image in range(3):
        best = 0.0
        for query in range(5):
            scores = logits[-1, image, query]
            score = scores.softmax(0)[1] if scoring == "softmax" else scores.sigmoid()[1]
            pair = cxcywh_to_xyxy(torch.stack([detected.box_cxcywh, boxes[-1, image, query]]))
            best = max(best, float(score) * float(box_iou(pair[:1], pair[1:])))
        assert float(found[image]) == pytest.approx(best, rel=1e-5)


def test_correlation_equals_spearman() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(6, 7, generator=generator).round(decimals=1) for _ in range(2))  # with ties
    expected = spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic
    assert rank_correlation(one, other) == pytest.approx(float(expected))
    assert rank_correlation(one, one.exp()) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    assert rank_correlation(one, torch.ones(6, 7)) == 0


def test_summaries_average_orders_within_a_detection_first() -> None:
    def curve(method: str, what: str, detection: int, *scores: float) -> Curve:
        return Curve(method, "keys", what, detection, scores)

    curves = [
        curve("map", "deletion", 0, 1, 0.2, 0),
        curve("map", "deletion", 1, 1, 0.6, 0),
        curve("map", "deletion", 2, 1, 1.0, 1),
        *(curve("random", "deletion", 0, 1, s, 0) for s in (0.4, 0.8)),
        *(curve("random", "deletion", 1, 1, s, 0) for s in (0.2, 0.4)),
        *(curve("random", "deletion", 2, 1, s, 1) for s in (1.0, 1.0)),
    ]
    found = {s.method: s for s in summarise_curves(curves)}
    areas, chance = [0.35, 0.55, 1.0], [0.55, 0.4, 1.0]
    assert found["map"].area == pytest.approx(np.mean(areas)) and found["random"].area == pytest.approx(
        np.mean(chance)
    )
    assert found["map"].error == pytest.approx(float(sem(areas)))
    apart = np.subtract(areas, chance)
    assert found["map"].difference == pytest.approx(apart.mean())
    assert found["map"].difference_error == pytest.approx(float(sem(apart)))
    assert found["map"].better == pytest.approx(1 / 3), "a tie is not better"
    assert found["map"].detections == 3 and found["map"].scores == pytest.approx((1, 0.6, 1 / 3))
    inserted = summarise_curves(
        [curve("map", "insertion", 0, 0, 1, 1), curve("random", "insertion", 0, 0, 0.2, 1)]
    )
    assert inserted[0].better == 1
    assert {(s.where, s.what) for s in inserted} == {("keys", "insertion")}
    worse = summarise_curves(
        [curve("map", "insertion", 0, 0, 0.1, 1), curve("random", "insertion", 0, 0, 0.2, 1)]
    )
    assert worse[0].better == 0
