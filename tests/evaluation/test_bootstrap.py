"""Intervals of AP and of its differences, against a bootstrap of our own by copies of images."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from detrscope.evaluation.bootstrap import SAMPLES, APDifference, ap_difference, sample_count
from detrscope.evaluation.coco_ap import average_precision

Results = list[dict[str, Any]]


def made_up(images: int = 40, seed: int = 0) -> tuple[dict[str, Any], Results, Results]:
    """Ground truth, and the results of a good and of a less good model."""
    draw = random.Random(seed)
    annotations: Results = []
    good: Results = []
    worse: Results = []
    for image in range(images):
        for place in range(draw.randrange(1, 5)):
            box = [100.0 * place, draw.uniform(0, 100), draw.uniform(40, 90), draw.uniform(40, 90)]
            row = {"image_id": image, "category_id": draw.choice([1, 2]), "bbox": box}
            annotations.append({"id": len(annotations) + 1, **row, "area": box[2] * box[3], "iscrowd": 0})
            for results, spread, lost in ((good, 4, 0.1), (worse, 9, 0.25)):
                if draw.random() > lost:
                    moved = [box[0] + draw.gauss(0, spread), box[1] + draw.gauss(0, spread), *box[2:]]
                    results.append({**row, "bbox": moved, "score": draw.random()})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    rows = [{"id": i, "file_name": f"{i}.png", "width": 500, "height": 300} for i in range(images)]
    return {"images": rows, "annotations": annotations, "categories": categories}, good, worse


def sampled(truth: dict[str, Any], results: Results, ids: list[int]) -> float:
    """AP on images drawn with replacement, made new images."""
    rows: dict[str, Results] = {"annotations": [], "results": []}
    for new, old in enumerate(ids):
        rows["results"] += [{**r, "image_id": new} for r in results if r["image_id"] == old]
        for a in truth["annotations"]:
            if a["image_id"] == old:
                rows["annotations"].append({**a, "image_id": new, "id": len(rows["annotations"]) + 1})
    images = [{**truth["images"][0], "id": new} for new in range(len(ids))]
    tree = {"images": images, "annotations": rows["annotations"], "categories": truth["categories"]}
    return average_precision(tree, rows["results"]).AP or 0.0


def test_interval_is_that_of_a_bootstrap_by_copies() -> None:
    truth, good, worse = made_up()
    found = ap_difference(truth, good, worse)
    assert found is not None and found.samples == SAMPLES
    exact = (average_precision(truth, good).AP or 0) - (average_precision(truth, worse).AP or 0)
    assert found.value == pytest.approx(exact)
    draw = random.Random(1)
    differences = []
    for _ in range(150):
        ids = [draw.randrange(40) for _ in range(40)]
        differences.append(sampled(truth, good, ids) - sampled(truth, worse, ids))
    low, high = np.quantile(differences, [0.025, 0.975])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.2 * width)
    assert found.high == pytest.approx(high, abs=0.2 * width)
    assert found.is_significant and found.low < found.value < found.high


def test_difference_of_a_model_with_itself_is_not_significant() -> None:
    truth, good, _ = made_up()
    same = ap_difference(truth, good, good)
    assert same == APDifference(0.0, 0.0, 0.0, SAMPLES) and not same.is_significant


def test_the_other_order_has_the_other_sign() -> None:
    truth, good, worse = made_up(seed=3)
    one, other = ap_difference(truth, good, worse), ap_difference(truth, worse, good)
    assert one is not None and other is not None
    assert other.value == pytest.approx(-one.value)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)


def test_ten_pairs_of_equal_models_are_rarely_significant() -> None:
    """Of differences by chance, one in twenty is expected beyond its interval."""
    count = 0
    for seed in range(10):
        draw = random.Random(seed)
        truth, good, _ = made_up(seed=seed)
        halves = [[r for r in good if draw.random() < 0.9] for _ in range(2)]
        found = ap_difference(truth, *halves)
        count += found is not None and found.is_significant
    assert count <= 3


def test_without_boxes_there_is_no_difference() -> None:
    truth, good, worse = made_up(4)
    assert ap_difference({**truth, "annotations": []}, good, worse) is None
    nothing = ap_difference(truth, [], [])
    assert nothing is not None and nothing.value == 0


def test_fewer_samples_are_drawn_of_very_many_results() -> None:
    assert sample_count(0) == sample_count(1000) == SAMPLES
    assert sample_count(200_000) == 200 and sample_count(10**9) == 100
