"""COCO average precision: faster-coco-eval does the matching, this names what comes out.

AP is the mean over ten IoU thresholds (.50 to .95), 101 recalls, and the classes that have truth, of the best
100 results of each class in each image. Numbers are fractions of 1, and None where there is no truth to
measure against.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detrscope.console import log
from detrscope.core.errors import UserError

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ("all", "small", "medium", "large")  # below 32 x 32, below 96 x 96, and above, by the truth's `area`
BEST = (1, 10, 100)  # results looked at in an image, of each class
_AT_50, _AT_75 = 0, 5  # rows of IOUS


@dataclass(frozen=True)
class ClassScore:
    """How well one class is found."""

    id: int
    name: str
    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    boxes: int  # of the truth, crowds not counted


@dataclass(frozen=True)
class Curve:
    """Precision of one class at each of the 101 recalls of `RECALLS`."""

    name: str
    precision_50: tuple[float, ...]  # at IoU .50
    precision_75: tuple[float, ...]  # at IoU .75


@dataclass(frozen=True)
class Evaluation:
    """The COCO numbers of one set of results."""

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    AR_1: float | None
    AR_10: float | None
    AR_100: float | None
    AR_small: float | None
    AR_medium: float | None
    AR_large: float | None
    images: int
    boxes: int  # of the truth, crowds not counted
    per_class: tuple[ClassScore, ...]
    curves: tuple[Curve, ...]  # of the classes that have truth

    def summary(self) -> dict[str, float | None]:
        """AP to AR_large by name."""
        return {key: value for key, value in vars(self).items() if key.startswith("A")}

    def to_json(self) -> dict[str, Any]:
        """Every number but the curves, as plain data."""
        rows = [asdict(row) for row in self.per_class]
        return {**self.summary(), "images": self.images, "boxes": self.boxes, "per_class": rows}


def average_precision(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Evaluation:
    """COCO AP and AR of detection results.

    Crowds are ignored as COCO does it: results on them count neither for nor against. Missing `area` and
    `iscrowd` are width times height and 0. Results of categories that the truth does not have, and results
    that are not finite, are left out with a warning.

    Args:
        truth: a COCO dataset: `images`, `annotations`, `categories`. Not changed.
        results: COCO results: `image_id`, `category_id`, `bbox` (x, y, width, height in pixels), `score`. Not
            changed.

    Returns:
        The evaluation. With truth and no results everything is 0.

    Raises:
        UserError: a result or an annotation of an image that the truth does not have.
    """
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    # In the order of ids, as pycocotools: where scores are equal the order of images decides.
    image_ids = sorted(image["id"] for image in truth["images"])
    image_rows = {image_id: row for row, image_id in enumerate(image_ids)}
    annotations = [_annotation(a, i, image_rows) for i, a in enumerate(truth["annotations"], start=1)]
    kept = _usable(results, image_rows, {category["id"] for category in categories})
    precision, recall = _accumulate(categories, len(image_rows), annotations, kept)
    boxes = Counter(a["category_id"] for a in annotations if not a["iscrowd"])

    def row(k: int) -> ClassScore:
        c = precision[:, :, k]
        parts = {f"AP_{area}": _mean(c[:, :, i, -1]) for i, area in enumerate(AREAS) if area != "all"}
        at_50, at_75 = _mean(c[_AT_50, :, 0, -1]), _mean(c[_AT_75, :, 0, -1])
        category = categories[k]
        return ClassScore(
            id=category["id"],
            name=str(category["name"]),
            AP=_mean(c[:, :, 0, -1]),
            AP50=at_50,
            AP75=at_75,
            boxes=boxes[category["id"]],
            **parts,
        )

    def curve(k: int) -> Curve:
        at_50, at_75 = (tuple(precision[t, :, k, 0, -1].tolist()) for t in (_AT_50, _AT_75))
        return Curve(str(categories[k]["name"]), at_50, at_75)

    return Evaluation(
        AP=_mean(precision[..., 0, -1]),
        AP50=_mean(precision[_AT_50, ..., 0, -1]),
        AP75=_mean(precision[_AT_75, ..., 0, -1]),
        AP_small=_mean(precision[..., 1, -1]),
        AP_medium=_mean(precision[..., 2, -1]),
        AP_large=_mean(precision[..., 3, -1]),
        AR_1=_mean(recall[..., 0, 0]),
        AR_10=_mean(recall[..., 0, 1]),
        AR_100=_mean(recall[..., 0, 2]),
        AR_small=_mean(recall[..., 1, -1]),
        AR_medium=_mean(recall[..., 2, -1]),
        AR_large=_mean(recall[..., 3, -1]),
        images=len(image_rows),
        boxes=sum(boxes.values()),
        per_class=tuple(row(k) for k in range(len(categories))),
        curves=tuple(curve(k) for k in range(len(categories)) if precision[0, 0, k, 0, -1] >= 0),
    )


def _accumulate(
    categories: list[Mapping[str, Any]],
    images: int,
    annotations: list[dict[str, Any]],
    results: list[dict[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [IoUs, recalls, classes, areas, best], recall [IoUs, classes, areas, best]; -1: undefined."""
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    if not categories or not images or not annotations:
        shape = (len(categories), len(AREAS), len(BEST))
        return -np.ones((len(IOUS), len(RECALLS), *shape)), -np.ones((len(IOUS), *shape))
    dataset = {
        "images": [{"id": row} for row in range(images)],
        "annotations": annotations,
        "categories": [dict(category) for category in categories],
    }
    reference = COCO(dataset)
    evaluation = COCOeval_faster(reference, reference.loadRes(results), "bbox")
    evaluation.params.maxDets = list(BEST)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _annotation(annotation: Mapping[str, Any], number: int, image_rows: Mapping[Any, int]) -> dict[str, Any]:
    """What the evaluator reads of an annotation. Ids count from 1: it takes 0 for "not matched"."""
    if annotation["image_id"] not in image_rows:
        name = annotation.get("id", number)
        raise UserError(
            f"truth: annotation {name} is of image {annotation['image_id']!r}, which is not in `images`"
        )
    x, y, width, height = annotation["bbox"]
    return {
        "id": number,
        "image_id": image_rows[annotation["image_id"]],
        "category_id": annotation["category_id"],
        "bbox": [x, y, width, height],
        "area": annotation.get("area", width * height),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _usable(
    results: Sequence[Mapping[str, Any]], image_rows: Mapping[Any, int], category_ids: set[int]
) -> list[dict[str, Any]]:
    """The results that can be evaluated; what is left out is said once."""
    kept: list[dict[str, Any]] = []
    strange: Counter[int] = Counter()
    infinite = 0
    for result in results:
        if result["image_id"] not in image_rows:
            raise UserError(
                f"results: image_id {result['image_id']!r} is not an image of this dataset; "
                "were they made on another dataset or split?"
            )
        if result["category_id"] not in category_ids:
            strange[result["category_id"]] += 1
        elif not all(math.isfinite(value) for value in (*result["bbox"], result["score"])):
            infinite += 1
        else:
            kept.append(
                {
                    "image_id": image_rows[result["image_id"]],
                    "category_id": result["category_id"],
                    "bbox": list(result["bbox"]),
                    "score": result["score"],
                    "segmentation": [],  # spares the evaluator one polygon per result
                }
            )
    if strange:
        ids = ", ".join(map(str, sorted(strange)))
        log.warning(
            f"{sum(strange.values())} results of categories that the dataset lacks are left out: {ids}"
        )
    if infinite:
        log.warning(f"{infinite} results whose box or score is not finite are left out")
    return kept


def _mean(values: np.ndarray) -> float | None:
    """The mean of what is defined."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
