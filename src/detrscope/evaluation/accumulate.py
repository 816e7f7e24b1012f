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
CLASSES_AT_ONCE = 100  # many share their images, which are set up once for all of them


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of each class; -1 where there is no ground truth to measure against."""

    precision: np.ndarray  # [IoUs, classes, areas], mean over the recalls, with the best 100 results
    recall: np.ndarray  # [IoUs, classes, areas, max results]
    curves: np.ndarray  # [2, classes, recalls] of all areas at IoU .50 and .75


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
    )
    annotations_of, results_of = _by_class(annotations), _by_class(results)
    annotated = sorted(annotations_of)
    for start in range(0, len(annotated), CLASSES_AT_ONCE):
        some = annotated[start : start + CLASSES_AT_ONCE]
        # Equal scores are ordered by image and, in it, by position: each list keeps its order.
        precision, recall = _evaluate(
            some,
            [row for k in some for row in annotations_of[k]],
            [row for k in some for row in results_of.get(k, ())],
        )
        # [classes, areas]; a class is defined at all recalls or at none
        defined = precision[0, 0, :, :, -1] > -1
        table.precision[:, some] = np.where(defined, precision[..., -1].mean(axis=1), -1)
        table.recall[:, some] = recall
        table.curves[:, some] = precision[[IOU_50, IOU_75], :, :, 0, -1].transpose(0, 2, 1)
    return table


def _by_class(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["category_id"]].append(row)
    return groups


def _evaluate(
    classes: list[int], annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision [IoUs, recalls, classes, areas, max results] and recall [IoUs, classes, areas, max results]."""
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    images = sorted({row["image_id"] for part in (annotations, results) for row in part})
    dataset = {
        "images": [{"id": image} for image in images],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in classes],
    }
    reference = COCO(dataset)
    evaluation = COCOeval_faster(reference, reference.loadRes(results), "bbox")
    evaluation.params.maxDets = list(MAX_RESULTS)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
