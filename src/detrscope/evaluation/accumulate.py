"""Precision and recall of every class, by faster-coco-eval, in time and memory proportional to the boxes.

The evaluator of COCO visits every image for every class: with 30,000 classes that takes hours and gigabytes. A class
matters only in the images that have a box or a result of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = (
    "all",
    "small",
    "medium",
    "large",
)  # below 32 x 32, below 96 x 96, and above, by `area` of the ground truth
MAX_RESULTS = (1, 10, 100)  # results evaluated in an image, of each class
IOU_50, IOU_75 = 0, 5  # rows of IOUS
RIGHT, WRONG, IGNORED = 1, 0, -1  # ignored: on a crowd, or beyond the best 100 of its class in its image
CLASSES_AT_ONCE = 100  # many share their images, which are set up once for all of them


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of each class; -1 where there is no ground truth to measure against."""

    precision: np.ndarray  # [IoUs, classes, areas], mean over the recalls, with the best 100 results
    recall: np.ndarray  # [IoUs, classes, areas, max results]
    curves: np.ndarray  # [2, classes, recalls] of all areas at IoU .50 and .75
    scores: np.ndarray  # [2, classes, recalls] at which each recall is reached; 0 where it is not
    outcomes: np.ndarray  # [results] int8 of the matching at IoU .50: RIGHT, WRONG or IGNORED


def accumulate(
    classes: int, annotations: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]
) -> PrecisionRecall:
    """Compute precision and recall of each class.

    Args:
        classes: Number of classes; each `category_id` is one of 0, 1, ... below it.
        annotations: Ground truth with `id`, `image_id`, `category_id`, `bbox`, `area`, `iscrowd`.
        results: Detections with `image_id`, `category_id`, `bbox`, `score`.
    """
    table = PrecisionRecall(
        -np.ones((len(IOUS), classes, len(AREAS))),
        -np.ones((len(IOUS), classes, len(AREAS), len(MAX_RESULTS))),
        -np.ones((2, classes, len(RECALLS))),
        -np.ones((2, classes, len(RECALLS))),
        np.full(len(results), WRONG, dtype=np.int8),
    )
    annotations_of, results_of = _by_class(annotations), _by_class(results)
    annotated = sorted(annotations_of)
    for start in range(0, len(annotated), CLASSES_AT_ONCE):
        some = annotated[start : start + CLASSES_AT_ONCE]
        # Equal scores are ordered by image and, in it, by position: each list keeps its order.
        rows = [row for k in some for row in results_of.get(k, ())]
        precision, recall, scores, outcomes = _evaluate(
            some,
            [annotations[row] for k in some for row in annotations_of[k]],
            [results[row] for row in rows],
        )
        # [classes, areas]; a class is defined at all recalls or at none
        defined = precision[0, 0, :, :, -1] > -1
        table.precision[:, some] = np.where(defined, precision[..., -1].mean(axis=1), -1)
        table.recall[:, some] = recall
        table.curves[:, some] = precision[[IOU_50, IOU_75], :, :, 0, -1].transpose(0, 2, 1)
        table.scores[:, some] = scores[[IOU_50, IOU_75], :, :, 0, -1].transpose(0, 2, 1)
        table.outcomes[rows] = outcomes
    table.outcomes[_beyond_most(results)] = IGNORED
    return table


def _by_class(rows: Iterable[dict[str, Any]]) -> dict[int, list[int]]:
    """Return the indices of the rows of each class."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row["category_id"]].append(index)
    return groups


def _beyond_most(results: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the indices of the results that are not among the best 100 of their class in their image."""
    scores = np.array([row["score"] for row in results], dtype=np.float64)
    groups = np.array([(row["image_id"], row["category_id"]) for row in results], dtype=np.int64).reshape(
        -1, 2
    )
    order = np.lexsort((-scores, groups[:, 1], groups[:, 0]))  # stable, as the evaluator's sorting
    ordered = groups[order]
    first = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(order)]
    starts = np.flatnonzero(first)
    ranks = np.arange(len(order)) - starts[np.cumsum(first) - 1]
    return np.asarray(order[ranks >= MAX_RESULTS[-1]])


def _evaluate(
    classes: list[int], annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall, scores and outcomes of some classes.

    Precision and scores are [IoUs, recalls, classes, areas, max results], recall has no axis of recalls, outcomes are
    [results].
    """
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    images = sorted({row["image_id"] for part in (annotations, results) for row in part})
    dataset = {
        "images": [{"id": image} for image in images],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in classes],
    }
    reference = COCO(dataset)
    detected = reference.loadRes(results)  # gives the results ids 1, 2, ... in their order
    evaluation = COCOeval_faster(reference, detected, "bbox")
    evaluation.params.maxDets = list(MAX_RESULTS)
    evaluation.evaluate()
    evaluation.accumulate()
    found = evaluation.eval
    # The pairs that the evaluator reports are a mixture of all its IoUs, so the matching at .50 is a run of its own.
    at_50 = COCOeval_faster(reference, detected, "bbox")
    at_50.params.iouThrs, at_50.params.maxDets = IOUS[:1], [MAX_RESULTS[-1]]
    at_50.params.areaRng, at_50.params.areaRngLbl = at_50.params.areaRng[:1], ["all"]
    at_50.evaluate()
    at_50.accumulate()
    crowds = {row["id"] for row in annotations if row["iscrowd"]}
    outcomes = np.full(len(results), WRONG, dtype=np.int8)
    for pair in at_50.eval["matched"]:  # "id of a result _ id of an annotation"
        result, annotation = map(int, pair.split("_"))
        outcomes[result - 1] = IGNORED if annotation in crowds else RIGHT
    precision, recall, scores = (np.asarray(found[key]) for key in ("precision", "recall", "scores"))
    return precision, recall, scores, outcomes
