"""Threshold curves against pycocotools' matching counted by hand, and their edge cases."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from detrscope.core.operating_points import Goal, OperatingPoint, ThresholdCurve
from detrscope.evaluation.coco_ap import Evaluation, average_precision
from detrscope.evaluation.report import write_precision_recall_csv, write_thresholds_csv
from detrscope.evaluation.threshold_curves import (
    CLASS_POINTS,
    TABLE_POINTS,
    thin_curve,
    threshold_curve,
    threshold_table,
)
from tests.support.coco_problems import pycocotools_evaluation, random_problem

GOALS = [
    Goal("f1"),
    *(Goal(kind, v) for kind in ("precision", "recall") for v in (0.05, 0.3, 0.5, 0.8, 0.9, 1.0)),
]  # type: ignore[arg-type]


def counted_by_pycocotools(
    seed: int,
) -> tuple[Evaluation, dict[int, list[tuple[float, bool]]], dict[int, int]]:
    """Our evaluation; score and rightness of each detection that counts, and the boxes, by class id."""
    ground_truth, results = random_problem(seed)
    oracle = pycocotools_evaluation(ground_truth, results)
    detections: dict[int, list[tuple[float, bool]]] = {k: [] for k in oracle.params.catIds}
    boxes = dict.fromkeys(oracle.params.catIds, 0)
    for image in oracle.evalImgs:
        if image is None or image["aRng"] != oracle.params.areaRng[0]:
            continue
        boxes[image["category_id"]] += int((np.asarray(image["gtIgnore"]) == 0).sum())
        matched, ignored = image["dtMatches"][0] > 0, image["dtIgnore"][0]
        rows = zip(image["dtScores"], matched, ignored, strict=True)
        detections[image["category_id"]] += [(s, bool(m)) for s, m, i in rows if not i]
    return average_precision(ground_truth, results), detections, boxes


def at(threshold: float, detections: list[tuple[float, bool]], boxes: int) -> OperatingPoint:
    kept = [right for score, right in detections if score >= threshold]
    return OperatingPoint(threshold, sum(kept) / max(len(kept), 1), sum(kept) / boxes)


def assert_curve_is_best(curve: ThresholdCurve, detections: list[tuple[float, bool]], boxes: int) -> None:
    """The answers of a curve are those of trying every score."""
    assert curve.boxes == boxes
    if not boxes:
        assert curve.points() == []
        return
    tried = [at(score, detections, boxes) for score, _ in detections]
    tried = [point for point in tried if point.recall]
    for point in curve.points():
        assert at(point.threshold, detections, boxes) == point
    for goal in GOALS:
        found = curve.best(goal)
        if goal.kind == "f1":
            assert (found is None) == (not tried)
            assert found is None or found.f1 == max(point.f1 for point in tried)
            continue
        other = "recall" if goal.kind == "precision" else "precision"
        reaching = [getattr(point, other) for point in tried if getattr(point, goal.kind) >= goal.value]
        assert (found is None) == (not reaching), goal
        if found is None:
            assert curve.highest(goal.kind) == max((getattr(p, goal.kind) for p in tried), default=0)
        else:
            assert getattr(found, goal.kind) >= goal.value and getattr(found, other) == max(reaching)


@pytest.mark.parametrize("seed", range(60))
def test_answers_equal_trying_every_score(seed: int) -> None:
    evaluation, detections, boxes = counted_by_pycocotools(seed)
    for row, curve in zip(evaluation.per_class, evaluation.thresholds.per_class, strict=True):
        assert_curve_is_best(curve, detections[row.id], boxes[row.id])
    together = [pair for rows in detections.values() for pair in rows]
    assert_curve_is_best(evaluation.thresholds.all_classes, together, sum(boxes.values()))


def test_random_sets_have_reached_and_unreached_goals() -> None:
    curves = [average_precision(*random_problem(seed)).thresholds.all_classes for seed in range(40)]
    answers = [curve.best(goal) is None for curve in curves for goal in GOALS]
    assert 20 < sum(answers) < len(answers) - 20
    assert any(len(curve.points()) > 5 for curve in curves)


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
def test_close_scores_are_kept_apart(single: bool) -> None:
    rng = np.random.default_rng(0)
    scores = 0.5 + rng.integers(0, 400, 3000) * 2.0**-24
    scores = scores.astype(np.float32).astype(np.float64) if single else scores
    outcomes = (rng.random(3000) < (scores - 0.5) * 2**24 / 400).astype(np.int8)
    curve = threshold_curve(scores, outcomes, 3000)
    assert len(curve.points()) > 50
    for point in curve.points():
        kept = outcomes[scores >= point.threshold]
        assert (point.precision, point.recall) == (kept.mean(), kept.sum() / 3000)
        if single:  # as detections compare them
            kept32 = outcomes[scores.astype(np.float32) >= np.float32(point.threshold)]
            assert kept32.sum() == kept.sum() and len(kept32) == len(kept)


def test_thresholds_lie_between_scores_with_few_digits() -> None:
    curve = threshold_curve(np.array([0.91234567, 0.31234567, 0.2]), np.array([1, 0, 1]), 2)
    assert curve.thresholds == (0.6, 0.1)


def test_equal_scores_pass_together() -> None:
    curve = threshold_curve(np.full(4, 0.5), np.array([1, 0, 1, 0]), 2)
    (point,) = curve.points()
    assert (point.precision, point.recall) == (0.5, 1)


def test_ignored_detections_do_not_count() -> None:
    curve = threshold_curve(np.array([0.9, 0.8, 0.7]), np.array([-1, 1, -1]), 1)
    assert curve.best(Goal("f1")) == OperatingPoint(curve.thresholds[0], 1, 1)


@pytest.mark.parametrize("boxes", [0, 3])
def test_no_detections_give_no_points(boxes: int) -> None:
    curve = threshold_curve(np.zeros(0), np.zeros(0, np.int8), boxes)
    assert curve == ThresholdCurve(boxes, (), (), ())
    assert curve.best(Goal("f1")) is None and curve.highest("recall") == 0


def test_detections_of_a_class_without_boxes_are_wrong() -> None:
    ground_truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
    }
    results = [
        {"image_id": 1, "category_id": k, "bbox": [0, 0, 10, 10], "score": s} for k, s in ((1, 0.5), (2, 0.9))
    ]
    found = average_precision(ground_truth, results)
    assert pytest.approx(1, rel=1e-12) == found.AP
    assert found.thresholds.all_classes.points()[0].precision == 0.5
    assert [len(curve.points()) for curve in found.thresholds.per_class] == [1, 0]
    tree = found.to_json()
    assert tree["operating_points"]["precision=0.9"] == {
        **dict.fromkeys(("threshold", "precision", "recall", "f1")), "highest": 0.5,
    }  # fmt: skip
    assert tree["per_class"][1]["operating_points"]["f1"]["highest"] is None
    assert json.loads(json.dumps(tree)) == tree


def long_curve(seed: int = 0, n: int = 5000) -> ThresholdCurve:
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    return threshold_curve(scores, (rng.random(n) < scores**2).astype(np.int8), n // 2)


def test_thinned_curves_keep_their_promises() -> None:
    whole = long_curve()
    thin = thin_curve(whole, 40)
    assert len(whole.points()) > 300 and len(thin.points()) <= 40
    assert set(thin.points()) <= set(whole.points())
    assert thin.best(Goal("f1")) == whole.best(Goal("f1"))
    assert (thin.points()[0], thin.points()[-1]) == (whole.points()[0], whole.points()[-1])
    for value in np.linspace(0.35, 0.99, 30):
        goal = Goal("precision", float(value))
        exact, near = whole.best(goal), thin.best(goal)
        assert exact is not None and near is not None
        assert near.precision >= value and near.recall > exact.recall - 0.06


def test_tables_of_many_classes_stay_small() -> None:
    curves = {i: long_curve(i) for i in range(80)}
    table = threshold_table(long_curve(), {**curves, 99: ThresholdCurve(0, (), (), ())}, source="s", images=3)
    assert len(table.all_classes.points()) <= TABLE_POINTS and set(table.per_class) == set(curves)
    assert sum(len(curve.points()) for curve in table.per_class.values()) <= CLASS_POINTS
    assert len(json.dumps(table.to_json())) < 150_000


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_files_have_the_scores(tmp_path: Path) -> None:
    for seed in range(20):
        evaluation = average_precision(*random_problem(seed))
        write_precision_recall_csv(tmp_path / "pr.csv", evaluation)
        rows = csv_rows(tmp_path / "pr.csv")
        for curve in evaluation.curves:
            scores = [row[f"{curve.name} score at AP50"] for row in rows]
            assert [score != "" for score in scores] == [precision > 0 for precision in curve.precision_50]
        write_thresholds_csv(tmp_path / "t.csv", evaluation)
        points = evaluation.thresholds.all_classes.points()
        together = [row for row in csv_rows(tmp_path / "t.csv") if row["id"] == ""]
        assert [float(row["threshold"]) for row in together] == [point.threshold for point in points]
        assert [float(row["F1"]) for row in together] == [point.f1 for point in points]
