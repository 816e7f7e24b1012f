"""Precision and recall at every score threshold, from the outcomes of the matching at IoU .50."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detrscope.core.operating_points import Goal, OperatingPoint, ThresholdCurve, ThresholdTable

GOALS = (Goal("f1"), Goal("precision", 0.9), Goal("recall", 0.9))  # that reports show
TABLE_POINTS = 200  # at most, of one curve in a model's card
CLASS_POINTS = 4000  # of the curves of all classes in a card, some 100 kB of text
MIN_CLASS_POINTS = 5


def threshold_curve(scores: np.ndarray, outcomes: np.ndarray, boxes: int) -> ThresholdCurve:
    """Return the operating points that no other one exceeds in both precision and recall.

    Only these are the answer to a wanted precision, a wanted recall or the best F1.

    Args:
        scores: [n] scores of detections, in any order.
        outcomes: [n] 1 right, 0 wrong, -1 ignored.
        boxes: boxes of the ground truth, without crowds.
    """
    counted = outcomes >= 0
    scores, right = scores[counted], outcomes[counted] == 1
    if not boxes or not right.any():
        return ThresholdCurve(boxes, (), (), ())
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # of each score: ties pass together
    true_positives = np.cumsum(right)[last]
    false_positives = last + 1 - true_positives
    precision = true_positives / (last + 1)
    later = np.append(
        np.maximum.accumulate(precision[::-1])[-2::-1], -1.0
    )  # best precision of lower thresholds
    rising = np.diff(true_positives, prepend=0) > 0
    front = np.flatnonzero(rising & (precision > later))
    distinct = np.append(scores[last], min(0.0, float(scores[-1]) - 1.0))
    if scores[-1] > 0:
        distinct[-1] = 0.0
    thresholds = [_between(float(distinct[i + 1]), float(distinct[i])) for i in front]
    return ThresholdCurve(
        boxes,
        tuple(thresholds),
        tuple(true_positives[front].tolist()),
        tuple(false_positives[front].tolist()),
    )


def thin_curve(curve: ThresholdCurve, most: int) -> ThresholdCurve:
    """Return at most about `most` points, evenly spaced along precision and recall, that of the best F1 among them.

    What the remaining points promise stays true; a wanted precision may cost a little more recall.
    """
    points = curve.points()
    if len(points) <= most:
        return curve
    values = np.array([(point.precision, point.recall) for point in points])
    along = np.append(0.0, np.cumsum(np.abs(np.diff(values, axis=0)).sum(axis=1)))
    rows = np.searchsorted(along, np.linspace(0, along[-1], most - 1)).clip(max=len(points) - 1)
    best = max(range(len(points)), key=lambda row: points[row].f1)
    kept = np.unique(np.append(rows, best)).tolist()
    return ThresholdCurve(
        curve.boxes,
        tuple(curve.thresholds[i] for i in kept),
        tuple(curve.true_positives[i] for i in kept),
        tuple(curve.false_positives[i] for i in kept),
    )


def threshold_table(
    all_classes: ThresholdCurve, per_class: Mapping[int, ThresholdCurve], *, source: str, images: int
) -> ThresholdTable:
    """Return the curves as a table for a model's card, thinned to its size."""
    with_boxes = {category_id: curve for category_id, curve in per_class.items() if curve.boxes}
    most = max(MIN_CLASS_POINTS, min(TABLE_POINTS, CLASS_POINTS // max(len(with_boxes), 1)))
    thinned = {category_id: thin_curve(curve, most) for category_id, curve in with_boxes.items()}
    return ThresholdTable(source, images, thin_curve(all_classes, TABLE_POINTS), thinned)


def operating_points(curve: ThresholdCurve) -> list[tuple[Goal, OperatingPoint | None]]:
    """Return the goals that reports show and the point that reaches each; None where none does."""
    return [(goal, curve.best(goal)) for goal in GOALS]


def _between(lower: float, upper: float) -> float:
    """Return a number above `lower` and at most `upper`, near their middle, with as few digits as possible.

    A threshold amid two scores is less sensitive to the rounding of another machine than a score itself. It also
    holds for scores in float32, which detections have.
    """
    middle = (lower + upper) / 2
    for digits in range(1, 10):
        value = round(middle, digits)
        single = float(np.float32(value))
        if lower < value <= upper and lower < single <= upper:
            return value
    return upper
