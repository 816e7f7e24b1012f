"""Precision and recall of every class, by hotcoco, in time and memory proportional to the boxes.

The evaluator of COCO visits every image for every class: with 30,000 classes that takes hours and gigabytes. A class
matters only in the images that have a box or a result of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
OUTCOMES = {"tp": RIGHT, "fp": WRONG, None: IGNORED}
Shape = Literal["bbox", "segm"]
CLASSES_AT_ONCE = 100  # many share their images, which are set up once for all of them


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of each class; -1 where there is no ground truth to measure against."""

    precision: np.ndarray  # [IoUs, recalls, annotated classes, areas], with the best 100 results
    annotated: tuple[int, ...]  # the classes of `precision`, in order
    recall: np.ndarray  # [IoUs, classes, areas, max results]
    curves: np.ndarray  # [2, classes, recalls] of all areas at IoU .50 and .75
    scores: np.ndarray  # [2, classes, recalls] at which each recall is reached; 0 where it is not
    outcomes: np.ndarray  # [results] int8 of the matching at IoU .50: RIGHT, WRONG or IGNORED


def accumulate(
    classes: int,
    annotations: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    shape: Shape = "bbox",
) -> PrecisionRecall:
    """Compute precision and recall of each class.

    Args:
        classes: Number of classes; each `category_id` is one of 0, 1, ... below it.
        annotations: Ground truth with `id`, `image_id`, `category_id`, `bbox`, `area`, `iscrowd`.
        results: Detections with `image_id`, `category_id`, `bbox`, `score`.
        shape: What is compared: boxes, or masks ("segm"), which are `segmentation` in place of `bbox` of results.
    """
    annotations_of, results_of = _by_class(annotations), _by_class(results)
    annotated = sorted(annotations_of)
    table = PrecisionRecall(
        np.empty((len(IOUS), len(RECALLS), len(annotated), len(AREAS))),
        tuple(annotated),
        -np.ones((len(IOUS), classes, len(AREAS), len(MAX_RESULTS))),
        -np.ones((2, classes, len(RECALLS))),
        -np.ones((2, classes, len(RECALLS))),
        np.full(len(results), WRONG, dtype=np.int8),
    )
    for start in range(0, len(annotated), CLASSES_AT_ONCE):
        some = annotated[start : start + CLASSES_AT_ONCE]
        # Equal scores are ordered by image and, in it, by position: each list keeps its order.
        rows = [row for k in some for row in results_of.get(k, ())]
        precision, recall, scores, outcomes = _evaluate(
            some,
            [annotations[row] for k in some for row in annotations_of[k]],
            [results[row] for row in rows],
            shape,
        )
        table.precision[:, :, start : start + len(some)] = precision[..., -1]
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
    classes: list[int], annotations: list[dict[str, Any]], results: list[dict[str, Any]], shape: Shape
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall, scores and outcomes of some classes.

    Precision and scores are [IoUs, recalls, classes, areas, max results], recall has no axis of recalls, outcomes are
    [results].
    """
    import hotcoco

    images = sorted({row["image_id"] for part in (annotations, results) for row in part})
    dataset = {
        "images": [{"id": image} for image in images],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in classes],
    }
    reference = hotcoco.COCO(dataset)
    evaluation = hotcoco.COCOeval(
        reference, reference.load_res(results), shape
    )  # ids 1, 2, ... in their order
    evaluation.params.max_dets = list(MAX_RESULTS)
    evaluation.evaluate()
    evaluation.accumulate()
    found: Any = evaluation.eval
    statuses = evaluation.image_diagnostics(iou_thr=IOUS[IOU_50])["dt_status"]  # none: on a crowd
    outcomes = [OUTCOMES[statuses.get(result)] for result in range(1, len(results) + 1)]
    precision, recall, scores = (np.asarray(found[key]) for key in ("precision", "recall", "scores"))
    return precision, recall, scores, np.array(outcomes, dtype=np.int8)
