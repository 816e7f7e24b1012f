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
from detrscope.evaluation.accumulate import AREAS, AT, accumulate
from detrscope.evaluation.accumulate import BEST as BEST
from detrscope.evaluation.accumulate import IOUS as IOUS
from detrscope.evaluation.accumulate import RECALLS as RECALLS
from detrscope.evaluation.results_file import check_truth, wrong_result

_AT_50, _AT_75 = AT


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
        UserError: a result or an annotation of an image that the truth does not have, or a value of another kind
            than COCO's.
    """
    check_truth(truth)
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    # In the order of ids, as pycocotools: where scores are equal the order of images decides.
    image_ids = [image["id"] for image in truth["images"]]
    if len({isinstance(image_id, str) for image_id in image_ids}) > 1:
        raise UserError("truth: images: some ids are numbers and some are texts; make them all of one kind")
    image_ids.sort()
    image_rows = {image_id: row for row, image_id in enumerate(image_ids)}
    category_rows = {category["id"]: row for row, category in enumerate(categories)}
    annotations = _annotations(truth["annotations"], image_rows, category_rows)
    kept = _usable(results, image_rows, category_rows)
    tables = accumulate(len(categories), annotations, kept)
    boxes = Counter(a["category_id"] for a in annotations if not a["iscrowd"])

    def score(k: int) -> ClassScore:
        parts = {
            f"AP_{area}": _mean(tables.precision[:, k, i]) for i, area in enumerate(AREAS) if area != "all"
        }
        category = categories[k]
        return ClassScore(
            id=category["id"],
            name=str(category["name"]),
            AP=_mean(tables.precision[:, k, 0]),
            AP50=_mean(tables.precision[_AT_50, k, 0]),
            AP75=_mean(tables.precision[_AT_75, k, 0]),
            boxes=boxes[k],
            **parts,
        )

    def curve(k: int) -> Curve:
        at_50, at_75 = (tuple(tables.curves[i, k].tolist()) for i in (0, 1))
        return Curve(str(categories[k]["name"]), at_50, at_75)

    return Evaluation(
        AP=_mean(tables.precision[..., 0]),
        AP50=_mean(tables.precision[_AT_50, :, 0]),
        AP75=_mean(tables.precision[_AT_75, :, 0]),
        AP_small=_mean(tables.precision[..., 1]),
        AP_medium=_mean(tables.precision[..., 2]),
        AP_large=_mean(tables.precision[..., 3]),
        AR_1=_mean(tables.recall[..., 0, 0]),
        AR_10=_mean(tables.recall[..., 0, 1]),
        AR_100=_mean(tables.recall[..., 0, 2]),
        AR_small=_mean(tables.recall[..., 1, -1]),
        AR_medium=_mean(tables.recall[..., 2, -1]),
        AR_large=_mean(tables.recall[..., 3, -1]),
        images=len(image_rows),
        boxes=sum(boxes.values()),
        per_class=tuple(score(k) for k in range(len(categories))),
        curves=tuple(curve(k) for k in range(len(categories)) if tables.precision[0, k, 0] >= 0),
    )


def _annotations(
    annotations: Sequence[Mapping[str, Any]], image_rows: Mapping[Any, int], category_rows: Mapping[Any, int]
) -> list[dict[str, Any]]:
    """What the evaluator reads of each annotation. Ids count from 1: it takes 0 for "not matched"."""
    found: list[dict[str, Any]] = []
    strange = 0
    for number, annotation in enumerate(annotations, start=1):
        name = annotation.get("id", number)
        if annotation["image_id"] not in image_rows:
            raise UserError(
                f"truth: annotation {name} is of image {annotation['image_id']!r}, which is not in `images`"
            )
        if annotation["category_id"] not in category_rows:
            strange += 1
            continue
        x, y, width, height = map(float, annotation["bbox"])
        found.append(
            {
                "id": number,
                "image_id": image_rows[annotation["image_id"]],
                "category_id": category_rows[annotation["category_id"]],
                "bbox": [x, y, width, height],
                "area": float(annotation.get("area", width * height)),
                "iscrowd": int(annotation.get("iscrowd", 0)),
            }
        )
    if strange:
        log.warning(f"{strange} annotations of categories that are not in `categories` are left out")
    return found


def _usable(
    results: Sequence[Mapping[str, Any]], image_rows: Mapping[Any, int], category_rows: Mapping[Any, int]
) -> list[dict[str, Any]]:
    """The results that can be evaluated; what is left out is said once."""
    kept: list[dict[str, Any]] = []
    strange: Counter[Any] = Counter()
    infinite = 0
    for number, result in enumerate(results, start=1):
        if problem := wrong_result(result):
            raise UserError(f"results: result {number}: {problem}")
        if result["image_id"] not in image_rows:
            raise UserError(
                f"results: image_id {result['image_id']!r} is not an image of this dataset; "
                "were they made on another dataset or split?"
            )
        if result["category_id"] not in category_rows:
            strange[result["category_id"]] += 1
        elif not all(math.isfinite(value) for value in (*result["bbox"], result["score"])):
            infinite += 1
        else:
            kept.append(
                {
                    "image_id": image_rows[result["image_id"]],
                    "category_id": category_rows[result["category_id"]],
                    "bbox": [float(value) for value in result["bbox"]],
                    "score": float(result["score"]),
                    "segmentation": [],  # spares the evaluator one polygon per result
                }
            )
    if strange:
        first = sorted(strange, key=str)[:20]
        ids = ", ".join(map(str, first)) + (f" and {len(strange) - 20} more" if len(strange) > 20 else "")
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
