"""Panoptic quality against its definition (Kirillov et al. 2019, section 4.1) on small maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detrscope.data.coco_masks import encode_mask
from detrscope.evaluation.panoptic_quality import Quality, panoptic_quality

CATEGORIES = [
    {"id": 1, "name": "dog", "isthing": 1},
    {"id": 2, "name": "cat", "isthing": 1},
    {"id": 9, "name": "grass", "isthing": 0},
]
Map = tuple[np.ndarray, dict[int, int]]  # segment of each pixel, 0 void; category of each segment


def by_definition(pairs: list[tuple[Map, Map]], categories: list[int]) -> tuple[float, float, float]:
    """Mean PQ, SQ and RQ over the categories that occur, in percent of 1."""
    tp = dict.fromkeys(categories, 0)
    fp, fn, iou_sum = dict(tp), dict(tp), dict.fromkeys(categories, 0.0)
    for (truth, truth_of), (found, found_of) in pairs:
        matched: set[int] = set()
        for t, category in truth_of.items():
            if category not in tp:
                continue
            best = 0.0
            for f, other in found_of.items():
                inner = ((truth == t) & (found == f)).sum()
                void = ((truth == 0) & (found == f)).sum()
                iou = inner / ((truth == t).sum() + (found == f).sum() - inner - void)
                if other == category and iou > 0.5:
                    best = float(iou)
                    matched.add(f)
            tp[category] += best > 0
            fn[category] += best == 0
            iou_sum[category] += best
        for f, category in found_of.items():
            void = ((truth == 0) & (found == f)).sum() / (found == f).sum()
            if category in fp and f not in matched and void <= 0.5:
                fp[category] += 1
    present = [c for c in categories if tp[c] + fp[c] + fn[c]]
    rq = {c: tp[c] / (tp[c] + fp[c] / 2 + fn[c] / 2) for c in present}
    sq = {c: iou_sum[c] / tp[c] if tp[c] else 0.0 for c in present}
    count = len(present)
    return (
        sum(sq[c] * rq[c] for c in present) / count,
        sum(sq.values()) / count,
        sum(rq.values()) / count,
    )


def rows(image_id: int, map_: Map) -> list[dict[str, Any]]:
    values, category_of = map_
    return [
        {"image_id": image_id, "category_id": category, "segmentation": encode_mask(values == segment)}
        for segment, category in category_of.items()
    ]


def dataset(maps: list[Map]) -> dict[str, Any]:
    height, width = maps[0][0].shape
    images = [{"id": i, "height": height, "width": width} for i in range(len(maps))]
    annotations = [row for i, map_ in enumerate(maps) for row in rows(i, map_)]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def painted(seed: int) -> tuple[Map, Map]:
    """A map with void, and a prediction that is nearly it: shifted, a class confused, a segment missing or false."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((40, 60), int)
    truth[25:] = 1
    truth_of = {1: 9}
    for segment in range(2, 5):
        y, x = rng.integers(0, 28), rng.integers(0, 45)
        truth[y : y + 12, x : x + 15] = segment
        truth_of[segment] = int(rng.integers(1, 3))
    truth_of = {segment: category for segment, category in truth_of.items() if (truth == segment).any()}
    found = np.roll(truth, rng.integers(-2, 3, 2), axis=(0, 1))
    found_of = dict(truth_of)
    if rng.random() < 0.5:
        found_of[max(found_of)] = 1 if found_of[max(found_of)] == 2 else 2
    if rng.random() < 0.4:
        found[found == 1] = 0
        found_of.pop(1)
    if rng.random() < 0.5:  # a false segment on void
        free = (found == 0) & (truth == 0)
        free[5:] = False
        if free.any():
            found[free] = 8
            found_of[8] = 1
    return (truth, truth_of), (found, found_of)


@pytest.mark.parametrize("seed", range(25))
def test_quality_equals_the_definition(seed: int) -> None:
    pairs = [painted(2 * seed), painted(2 * seed + 1)]
    segments = [row for i, (_, found) in enumerate(pairs) for row in rows(i, found)]
    quality = panoptic_quality(dataset([truth for truth, _ in pairs]), segments)
    for part, categories in ((quality.all, [1, 2, 9]), (quality.things, [1, 2]), (quality.stuff, [9])):
        assert pytest.approx(by_definition(pairs, categories), abs=1e-12) == [part.PQ, part.SQ, part.RQ]


def test_a_perfect_prediction_is_one_and_none_is_zero() -> None:
    truth = painted(0)[0]
    perfect = panoptic_quality(dataset([truth]), rows(0, truth))
    assert perfect.all.PQ == perfect.all.SQ == perfect.all.RQ == 1
    assert panoptic_quality(dataset([truth]), []).all.PQ == 0


def test_classes_without_segments_are_undefined() -> None:
    values = np.zeros((10, 10), int)
    values[:4] = 1
    quality = panoptic_quality(dataset([(values, {1: 9})]), [])
    assert quality.things == Quality(None, None, None, 0) and quality.stuff.PQ == 0
