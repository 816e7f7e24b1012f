"""Precision and recall of every class, by faster-coco-eval, in time and memory that grow with the boxes only.

COCO's evaluator looks at every image for every class. With 30,000 classes that is hours and gigabytes of nothing: a
class matters only in the images that have a box or a result of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ("all", "small", "medium", "large")  # below 32 x 32, below 96 x 96, and above, by the truth's `area`
BEST = (1, 10, 100)  # results looked at in an image, of each class
AT = (0, 5)  # rows of IOUS for .50 and .75
AT_ONCE = 100  # classes; many share their images, which are set up once for all of them


@dataclass(frozen=True)
class Tables:
    """What is known of each class; -1 where there is no truth to measure against."""

    precision: np.ndarray  # [IoUs, classes, areas], the mean over the recalls, of the best 100
    recall: np.ndarray  # [IoUs, classes, areas, best]
    curves: np.ndarray  # [2, classes, recalls] of all areas at IoU .50 and .75


def accumulate(
    classes: int, annotations: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]
) -> Tables:
    """Precision and recall of each class.

    Args:
        classes: how many; `category_id` of annotations and results is one of 0, 1, ... below it.
        annotations: with `id`, `image_id`, `category_id`, `bbox`, `area`, `iscrowd`.
        results: with `image_id`, `category_id`, `bbox`, `score`.
    """
    tables = Tables(
        -np.ones((len(IOUS), classes, len(AREAS))),
        -np.ones((len(IOUS), classes, len(AREAS), len(BEST))),
        -np.ones((len(AT), classes, len(RECALLS))),
    )
    truth_of, results_of = _by_class(annotations), _by_class(results)
    with_truth = sorted(truth_of)
    for start in range(0, len(with_truth), AT_ONCE):
        some = with_truth[start : start + AT_ONCE]
        # Scores that are equal are ordered by image and, in it, by place: each list keeps its order.
        truth = [row for k in some for row in truth_of[k]]
        found = [row for k in some for row in results_of.get(k, ())]
        precision, recall = _evaluate(some, truth, found)
        defined = (
            precision[0, 0, :, :, -1] > -1
        )  # [classes, areas]; a class is defined at all recalls or at none
        means = precision[..., -1].mean(axis=1)
        tables.precision[:, some] = np.where(defined, means, -1)
        tables.recall[:, some] = recall
        tables.curves[:, some] = precision[AT, :, :, 0, -1].transpose(0, 2, 1)
    return tables


def _by_class(rows: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["category_id"]].append(row)
    return found


def _evaluate(
    classes: list[int], annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [IoUs, recalls, classes, areas, best] and recall [IoUs, classes, areas, best]."""
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
    evaluation.params.maxDets = list(BEST)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
