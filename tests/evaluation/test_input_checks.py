"""Checks of ground truth and results; evaluation of many classes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detrscope.core.errors import UserError
from detrscope.evaluation.coco_ap import average_precision
from detrscope.evaluation.results_file import read_results
from tests.support.coco_problems import SUMMARY, pycocotools_evaluation, random_problem

GROUND_TRUTH: dict[str, Any] = {
    "images": [{"id": 1}],
    "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}],
    "categories": [{"id": 7, "name": "dog"}],
}
RESULT: dict[str, Any] = {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bbox", [1, 2, 3], "'bbox' must be four numbers"),
        ("bbox", "abcd", "'bbox' must be four numbers"),
        ("bbox", None, "'bbox' must be four numbers"),
        ("bbox", [1, 2, [3], 4], "'bbox' must be four numbers"),
        ("score", None, "'score' must be a number"),
        ("score", True, "'score' must be a number"),
        ("category_id", 7.5, "'category_id' must be a whole number"),
        ("category_id", 10**20, "'category_id' must be a whole number of 64 bits"),
        ("image_id", [1], "'image_id' must be a whole number"),
        ("image_id", {}, "'image_id' must be a whole number"),
    ],
)
def test_wrong_results_are_named(key: str, value: Any, message: str, tmp_path: Path) -> None:
    rows = [RESULT, {**RESULT, key: value}]
    with pytest.raises(UserError, match=f"results: result 2: {message}"):
        average_precision(GROUND_TRUTH, rows)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=rf"r\.json: result 2: {message}"):
        read_results(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"images": None}, "'images' must be a list, found NoneType"),
        ({"images": [{}]}, "images: row 1 has no 'id'"),
        ({"annotations": [3]}, "annotations: row 1 has no 'image_id'"),
        (
            {"annotations": [{**GROUND_TRUTH["annotations"][0], "bbox": [1, 2]}]},
            "annotations: row 1: expected four finite",
        ),
        (
            {"annotations": [{**GROUND_TRUTH["annotations"][0], "area": "big"}]},
            "annotations: row 1: expected",
        ),
        (
            {"annotations": [{**GROUND_TRUTH["annotations"][0], "iscrowd": "0"}]},
            "annotations: row 1: expected",
        ),
        ({"categories": [{"id": "7", "name": "dog"}]}, "categories: row 1: 'id' must be a whole number"),
        ({"images": [{"id": 1}, {"id": "b"}]}, "some ids are numbers and some are texts"),
    ],
)
def test_wrong_ground_truth_is_named(edit: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^ground truth: .*{message}"):
        average_precision({**GROUND_TRUTH, **edit}, [RESULT])


def test_numpy_numbers_and_text_ids_are_accepted() -> None:
    result = {
        "image_id": np.int64(1),
        "category_id": np.int32(7),
        "bbox": np.array([1.0, 2, 3, 4]),
        "score": np.float32(0.5),
    }
    assert pytest.approx(1, rel=1e-12) == average_precision(GROUND_TRUTH, [result]).AP
    named = {
        **GROUND_TRUTH,
        "images": [{"id": "a"}],
        "annotations": [{**GROUND_TRUTH["annotations"][0], "image_id": "a"}],
    }
    assert pytest.approx(1, rel=1e-12) == average_precision(named, [{**RESULT, "image_id": "a"}]).AP


def test_results_written_as_text_are_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    row = {"image_id": "1", "category_id": "7", "bbox": ["1", "2.5", 3, "4"], "score": "0.25"}
    path.write_text(json.dumps([row]), encoding="utf-16")
    assert read_results(path) == [{"image_id": 1, "category_id": 7, "bbox": [1, 2.5, 3, 4], "score": 0.25}]


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 5000 + "]", "\0", "\udcff"])
def test_results_that_are_not_json_raise_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"r\.json: ") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(8))
def test_classes_evaluated_in_parts_equal_pycocotools(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrscope.evaluation.accumulate.CLASSES_AT_ONCE", 2)
    ground_truth, results = random_problem(seed)
    found = average_precision(ground_truth, results)
    ours = [-1.0 if found.summary()[key] is None else found.summary()[key] for key in SUMMARY]
    np.testing.assert_allclose(ours, pycocotools_evaluation(ground_truth, results).stats, rtol=0, atol=1e-9)


def test_thirty_thousand_classes_take_seconds() -> None:
    ground_truth = {
        "images": [{"id": i} for i in range(100)],
        "annotations": [
            {"image_id": i % 100, "category_id": i * 7, "bbox": [i % 50, 1, 9, 9]}
            for i in range(0, 30_000, 10)
        ],
        "categories": [{"id": i * 7, "name": f"class {i}"} for i in range(30_000)],
    }
    results = [{**a, "score": 0.5} for a in ground_truth["annotations"]]
    start = time.process_time()
    found = average_precision(ground_truth, results)
    assert pytest.approx(1, rel=1e-12) == found.AP and len(found.per_class) == 30_000
    assert time.process_time() - start < 20
