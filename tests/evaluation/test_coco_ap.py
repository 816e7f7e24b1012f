"""average_precision against pycocotools, and its edge cases."""

import json
import logging
from typing import Any

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.evaluation.coco_ap import Evaluation, average_precision
from detrscope.evaluation.report import format_ap
from tests.support.coco_problems import SUMMARY, pycocotools_evaluation, random_problem


def undefined_as_minus_one(values: list[float | None]) -> list[float]:
    return [-1.0 if value is None else value for value in values]


@pytest.mark.parametrize("seed", range(120))
def test_equals_pycocotools(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    ground_truth, results = random_problem(seed)
    expected = pycocotools_evaluation(ground_truth, results)
    found = average_precision(ground_truth, results)
    assert capsys.readouterr().out == ""
    ours = undefined_as_minus_one([found.summary()[key] for key in SUMMARY])
    assert ours == list(expected.stats)  # to the bit

    precision = expected.eval["precision"]  # [IoUs, recalls, classes, areas, best]
    assert [row.id for row in found.per_class] == expected.params.catIds
    for k, row in enumerate(found.per_class):
        parts = [precision[:, :, k, 0, 2], precision[0, :, k, 0, 2], precision[5, :, k, 0, 2]]
        parts += [precision[:, :, k, area, 2] for area in (1, 2, 3)]
        means = [p[p > -1].mean() if (p > -1).any() else -1 for p in parts]
        ours = undefined_as_minus_one([getattr(row, key) for key in SUMMARY[:6]])
        np.testing.assert_allclose(ours, means, rtol=0, atol=1e-9)
    curves = {curve.name: curve for curve in found.curves}
    for k, row in enumerate(found.per_class):
        if precision[0, 0, k, 0, 2] > -1:
            np.testing.assert_allclose(
                curves[row.name].precision_50, precision[0, :, k, 0, 2], rtol=0, atol=1e-9
            )
            np.testing.assert_allclose(
                curves[row.name].precision_75, precision[5, :, k, 0, 2], rtol=0, atol=1e-9
            )
            scores = expected.eval["scores"][[0, 5], :, k, 0, 2]
            np.testing.assert_allclose(
                [curves[row.name].score_50, curves[row.name].score_75], scores, rtol=0, atol=1e-9
            )
        else:
            assert row.name not in curves


def test_problems_are_varied() -> None:
    """The comparison means something: many different scores, undefined ones among them."""
    evaluations = [average_precision(*random_problem(seed)) for seed in range(40)]
    values = [round(e.AP, 6) for e in evaluations if e.AP is not None]
    assert len(set(values)) > 25
    assert any(row.AP is None for e in evaluations for row in e.per_class)
    assert any(a["iscrowd"] for seed in range(40) for a in random_problem(seed)[0]["annotations"])


def world() -> dict[str, Any]:
    """Ids with gaps; class 900 has no boxes."""
    return {
        "images": [{"id": 5}, {"id": 3}],
        "categories": [{"id": 900, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 7, "name": "owl"}],
        "annotations": [
            {"id": 0, "image_id": 5, "category_id": 1, "bbox": [10, 10, 20, 20]},
            {
                "id": 0,
                "image_id": 5,
                "category_id": 7,
                "bbox": [50, 50, 100, 100],
                "area": 9000,
                "iscrowd": 0,
            },
        ],
    }


def perfect() -> list[dict[str, Any]]:
    return [
        {"image_id": 5, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9},
        {"image_id": 5, "category_id": 7, "bbox": [50, 50, 100, 100], "score": 0.8},
    ]


def test_perfect_results_score_one() -> None:
    found = average_precision(world(), perfect())
    assert pytest.approx((1, 1, 1), rel=1e-12) == (found.AP, found.AP50, found.AR_1)
    assert (found.AP_small, found.AP_medium) == pytest.approx(
        (1, 1), rel=1e-12
    )  # `area`, not the box, decides
    assert found.AP_large is None
    rows = [(row.id, row.name, row.boxes) for row in found.per_class]
    assert rows == [(1, "dog", 1), (7, "owl", 1), (900, "cat", 0)]
    assert [row.AP for row in found.per_class] == [
        pytest.approx(1, rel=1e-12),
        pytest.approx(1, rel=1e-12),
        None,
    ]


def test_inputs_are_left_as_they_were() -> None:
    ground_truth, results = world(), perfect()
    average_precision(ground_truth, results)
    assert (ground_truth, results) == (world(), perfect())


def test_no_results_score_zero() -> None:
    found = average_precision(world(), [])
    assert (found.AP, found.AP50, found.AR_100, found.AP_small) == (0, 0, 0, 0)
    assert found.AP_large is None
    assert [row.AP for row in found.per_class] == [0, 0, None]


@pytest.mark.parametrize("missing", ["images", "annotations", "categories"])
def test_nothing_to_measure_against_is_undefined(missing: str) -> None:
    ground_truth = {**world(), missing: []}
    if missing == "images":
        ground_truth["annotations"] = []
    results = [] if missing == "images" else perfect()
    if missing == "categories":
        ground_truth["annotations"] = []
    found = average_precision(ground_truth, results)
    assert set(found.summary().values()) == {None}
    assert all(row.AP is None for row in found.per_class)
    assert json.loads(json.dumps(found.to_json()))["AP"] is None
    assert format_ap(found.AP) == "-"


def test_only_crowds_is_undefined() -> None:
    ground_truth = world()
    ground_truth["annotations"] = [{**a, "iscrowd": 1} for a in ground_truth["annotations"]]
    found = average_precision(ground_truth, perfect())
    assert found.AP is None
    assert found.boxes == 0


def test_results_on_a_crowd_count_neither_way() -> None:
    ground_truth = world()
    ground_truth["annotations"].append(
        {"id": 3, "image_id": 5, "category_id": 1, "bbox": [200, 200, 100, 100], "area": 10_000, "iscrowd": 1}
    )
    in_crowd = [
        {"image_id": 5, "category_id": 1, "bbox": [210 + i, 210, 20, 20], "score": 0.99} for i in range(5)
    ]
    assert pytest.approx(1, rel=1e-12) == average_precision(ground_truth, perfect() + in_crowd).AP
    outside = [{**r, "bbox": [400, 400, 20, 20]} for r in in_crowd]
    assert pytest.approx(7 / 12) == average_precision(ground_truth, perfect() + outside).AP  # 1/6 and 1


def test_unknown_categories_are_left_out_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    strange = [{**perfect()[0], "category_id": c, "score": 1.0} for c in (2, 2, 3)]
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        assert pytest.approx(1, rel=1e-12) == average_precision(world(), perfect() + strange).AP
    assert [r.getMessage() for r in caplog.records] == [
        "3 results of categories that the dataset lacks are left out: 2, 3"
    ]


def test_infinite_results_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    bad = [{**perfect()[0], "score": float("nan")}, {**perfect()[0], "bbox": [0, 0, float("inf"), 1]}]
    with caplog.at_level(logging.WARNING, logger="detrscope"):
        assert pytest.approx(1, rel=1e-12) == average_precision(world(), bad + perfect()).AP
    assert "2 results" in caplog.text


def test_results_of_another_dataset_are_refused() -> None:
    with pytest.raises(UserError, match="image_id 99 is not an image"):
        average_precision(world(), [{**perfect()[0], "image_id": 99}])


def test_json_has_the_documented_keys() -> None:
    tree = average_precision(world(), perfect()).to_json()
    assert list(tree) == [*SUMMARY, "images", "boxes", "operating_points", "per_class"]
    assert list(tree["per_class"][0]) == ["id", "name", *SUMMARY[:6], "boxes", "operating_points"]
    assert list(tree["operating_points"]) == ["f1", "precision=0.9", "recall=0.9"]
    assert json.loads(json.dumps(tree)) == tree


def test_the_best_hundred_of_an_image_count() -> None:
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
    }
    wrong = [{"image_id": 1, "category_id": 1, "bbox": [50, 50, 9, 9], "score": 0.9} for _ in range(100)]
    right = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.8}
    assert average_precision(ground_truth, [*wrong, right]).AP == 0
    assert pytest.approx(0.01) == average_precision(ground_truth, [*wrong[1:], right]).AP


def test_evaluation_is_plain_data() -> None:
    first, second = (average_precision(world(), perfect()) for _ in range(2))
    assert isinstance(first, Evaluation)
    assert first == second
