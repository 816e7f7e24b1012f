"""COCO average precision and recall; hotcoco does the matching.

AP is the mean precision over ten IoU thresholds (.50 to .95), 101 recalls and the classes that have boxes, with the
best 100 results of each class in each image. Numbers are fractions of 1, and None where there is no ground truth to
measure against.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.core.operating_points import ThresholdCurve
from detrscope.evaluation.accumulate import AREAS, IOU_50, IOU_75, IOUS, RECALLS, Shape, accumulate
from detrscope.evaluation.evaluation_display import EvaluationDisplay
from detrscope.evaluation.panoptic_quality import PanopticQuality
from detrscope.evaluation.results_file import check_results_ground_truth, result_problem
from detrscope.evaluation.threshold_curves import operating_points, threshold_curve

_NONE = np.empty((len(IOUS), len(RECALLS), 0, len(AREAS)))  # precision of a class without ground truth


@dataclass(frozen=True)
class ClassScore:
    """AP of one class."""

    id: int
    name: str
    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    boxes: int  # of the ground truth, without crowds


@dataclass(frozen=True)
class Curve:
    """Precision of one class at each of the 101 recalls of `accumulate.RECALLS`, and the scores that reach them."""

    name: str
    precision_50: tuple[float, ...]  # at IoU .50
    precision_75: tuple[float, ...]  # at IoU .75
    score_50: tuple[float, ...]  # minimum score for each recall; 0 where none reaches it
    score_75: tuple[float, ...]


@dataclass(frozen=True)
class ThresholdCurves:
    """Precision and recall at score thresholds, at IoU .50."""

    all_classes: ThresholdCurve  # detections of every class counted together
    per_class: tuple[ThresholdCurve, ...]  # in the order of `Evaluation.per_class`


@dataclass(frozen=True, repr=False)
class Evaluation(EvaluationDisplay):
    """COCO metrics of one set of results."""

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
    boxes: int  # of the ground truth, without crowds
    per_class: tuple[ClassScore, ...]
    curves: tuple[Curve, ...]  # of the classes that have boxes
    thresholds: ThresholdCurves
    masks: Evaluation | None = None  # the same of masks, where model and data have them
    panoptic: PanopticQuality | None = None  # where the data are panoptic, too

    def summary(self) -> dict[str, float | None]:
        """Return AP to AR_large by name, and those of masks with `mask_` in front."""
        own = {key: value for key, value in vars(self).items() if key.startswith("A")}
        masks = {} if self.masks is None else self.masks.summary()
        return own | {f"mask_{key}": value for key, value in masks.items()}

    def to_json(self) -> dict[str, Any]:
        """Return every number but the curves as plain data."""
        rows = [
            {**asdict(row), "operating_points": _points_json(curve)}
            for row, curve in zip(self.per_class, self.thresholds.per_class, strict=True)
        ]
        points = _points_json(self.thresholds.all_classes)
        counts = {"images": self.images, "boxes": self.boxes}
        quality = {} if self.panoptic is None else {"panoptic": asdict(self.panoptic)}
        more = {} if self.masks is None else {"masks": self.masks.to_json()}
        return {**self.summary(), **counts, "operating_points": points, **more, **quality, "per_class": rows}


def _points_json(curve: ThresholdCurve) -> dict[str, dict[str, float | None]]:
    """Return the operating point of each goal; null where no threshold reaches it, with the highest there is."""
    rows: dict[str, dict[str, float | None]] = {}
    for goal, point in operating_points(curve):
        if point is None:
            highest = {"highest": curve.highest(goal.kind) if curve.boxes else None}
            rows[str(goal)] = {**dict.fromkeys(("threshold", "precision", "recall", "f1")), **highest}
        else:
            rows[str(goal)] = {**asdict(point), "f1": point.f1}
    return rows


def average_precision(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], shape: Shape = "bbox"
) -> Evaluation:
    """Compute COCO AP and AR of detection results.

    Crowds are ignored as in COCO: results on them count neither for nor against. Missing `area` and `iscrowd` are
    width times height and 0. Results of categories that the ground truth does not have, and results that are not
    finite, are left out with a warning.

    Args:
        ground_truth: COCO dataset: `images`, `annotations`, `categories`. Not changed.
        results: COCO results: `image_id`, `category_id`, `bbox` (x, y, width, height in pixels), `score`. Not changed.
        shape: What is compared: boxes, or masks ("segm"), for which see `mask_average_precision`.

    Returns:
        The metrics. With boxes and no results everything is 0.

    Raises:
        UserError: a result or an annotation is of an image that the ground truth does not have, or a value is not of
            COCO's type.
    """
    check_results_ground_truth(ground_truth)
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    # In the order of ids, as pycocotools: where scores are equal the order of images decides.
    image_ids = [image["id"] for image in ground_truth["images"]]
    if len({isinstance(image_id, str) for image_id in image_ids}) > 1:
        raise UserError("ground truth: images: some ids are numbers and some are texts; use one type for all")
    image_ids.sort()
    image_rows = {image_id: row for row, image_id in enumerate(image_ids)}
    category_rows = {category["id"]: row for row, category in enumerate(categories)}
    annotations = _annotations(ground_truth["annotations"], image_rows, category_rows, shape)
    usable = _usable(results, image_rows, category_rows, shape)
    table = accumulate(len(categories), annotations, usable, shape)
    boxes = Counter(a["category_id"] for a in annotations if not a["iscrowd"])
    names = [str(category["name"]) for category in categories]
    column = {k: index for index, k in enumerate(table.annotated)}
    of_class = [
        table.precision[:, :, column[k] : column[k] + 1] if k in column else _NONE for k in range(len(names))
    ]
    return Evaluation(
        **_average_precisions(table.precision),
        AR_1=_mean(table.recall[..., 0, 0]),
        AR_10=_mean(table.recall[..., 0, 1]),
        AR_100=_mean(table.recall[..., 0, 2]),
        AR_small=_mean(table.recall[..., 1, -1]),
        AR_medium=_mean(table.recall[..., 2, -1]),
        AR_large=_mean(table.recall[..., 3, -1]),
        images=len(image_rows),
        boxes=sum(boxes.values()),
        per_class=tuple(
            ClassScore(category["id"], names[k], **_average_precisions(of_class[k]), boxes=boxes[k])
            for k, category in enumerate(categories)
        ),
        curves=tuple(
            Curve(name, *(tuple(column.tolist()) for column in (*table.curves[:, k], *table.scores[:, k])))
            for k, name in enumerate(names)
            if table.curves[0, k, 0] >= 0
        ),
        thresholds=_threshold_curves(usable, table.outcomes, [boxes[k] for k in range(len(categories))]),
    )


def _threshold_curves(
    results: Sequence[Mapping[str, Any]], outcomes: np.ndarray, boxes: Sequence[int]
) -> ThresholdCurves:
    """Return the threshold curves of results and of each class; `boxes` are those of each class."""
    scores = np.array([row["score"] for row in results], dtype=np.float64)
    classes = np.array([row["category_id"] for row in results], dtype=np.int64)
    order = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[order], np.arange(len(boxes) + 1))
    rows = [order[start:end] for start, end in pairwise(bounds.tolist())]
    return ThresholdCurves(
        threshold_curve(scores, outcomes, sum(boxes)),
        tuple(threshold_curve(scores[of], outcomes[of], n) for of, n in zip(rows, boxes, strict=True)),
    )


def _average_precisions(precision: np.ndarray) -> dict[str, Any]:
    """Return AP, AP50, AP75 and AP by area of precision [IoUs, recalls, classes, areas]."""
    return {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[IOU_50, ..., 0]),
        "AP75": _mean(precision[IOU_75, ..., 0]),
        "AP_small": _mean(precision[..., 1]),
        "AP_medium": _mean(precision[..., 2]),
        "AP_large": _mean(precision[..., 3]),
    }


def _annotations(
    annotations: Sequence[Mapping[str, Any]],
    image_rows: Mapping[Any, int],
    category_rows: Mapping[Any, int],
    shape: Shape,
) -> list[dict[str, Any]]:
    """Return the fields of each annotation that the evaluator reads. Ids count from 1: for it 0 is "not matched"."""
    rows: list[dict[str, Any]] = []
    unknown = 0
    for number, annotation in enumerate(annotations, start=1):
        name, image_id = annotation.get("id", number), annotation["image_id"]
        if image_id not in image_rows:
            raise UserError(
                f"ground truth: annotation {name} is of image {image_id!r}, which is not in `images`"
            )
        if annotation["category_id"] not in category_rows:
            unknown += 1
            continue
        x, y, width, height = map(float, annotation["bbox"])
        rows.append(
            {
                "id": number,
                "image_id": image_rows[image_id],
                "category_id": category_rows[annotation["category_id"]],
                "bbox": [x, y, width, height],
                "area": float(annotation.get("area", width * height)),
                "iscrowd": int(annotation.get("iscrowd", 0)),
                **({"segmentation": annotation["segmentation"]} if shape == "segm" else {}),
            }
        )
    if unknown:
        log.warning(f"{unknown} annotations of categories that are not in `categories` are left out")
    return rows


def _usable(
    results: Sequence[Mapping[str, Any]],
    image_rows: Mapping[Any, int],
    category_rows: Mapping[Any, int],
    shape: Shape,
) -> list[dict[str, Any]]:
    """Return the results that can be evaluated; warn once of each kind that is left out."""
    usable: list[dict[str, Any]] = []
    unknown: Counter[Any] = Counter()
    infinite = 0
    for number, result in enumerate(results, start=1):
        if problem := result_problem(result):
            raise UserError(f"results: result {number}: {problem}")
        if result["image_id"] not in image_rows:
            raise UserError(
                f"results: image_id {result['image_id']!r} is not an image of this dataset; "
                "were they made on another dataset or split?"
            )
        if result["category_id"] not in category_rows:
            unknown[result["category_id"]] += 1
            continue
        box, score = [float(value) for value in result["bbox"]], float(result["score"])
        if not math.isfinite(sum(box) + score) and not all(map(math.isfinite, (*box, score))):
            infinite += 1
            continue
        image, category = image_rows[result["image_id"]], category_rows[result["category_id"]]
        row = {"image_id": image, "category_id": category, "score": score}
        # With a box too, areas would be those of boxes.
        what = {"bbox": box} if shape == "bbox" else {"segmentation": result["segmentation"]}
        usable.append(row | what)
    if unknown:
        ids = sorted(unknown, key=str)
        listed = ", ".join(map(str, ids[:20])) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
        log.warning(
            f"{sum(unknown.values())} results of categories that the dataset lacks are left out: {listed}"
        )
    if infinite:
        log.warning(f"{infinite} results whose box or score is not finite are left out")
    return usable


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of the defined values; None where there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
