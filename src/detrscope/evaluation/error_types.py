"""Kinds of errors, calibration, confusion and intervals of a set of results; hotcoco computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SAMPLES = 1000  # of the bootstrap
CONFIDENCE = 0.95
MANY = 10  # objects in an image of the slice "many objects"
TIDE = {  # Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020), section 2
    "Cls": "wrong class",
    "Loc": "badly placed",
    "Both": "wrong class and badly placed",
    "Dupe": "duplicate",
    "Bkg": "on nothing",
    "Miss": "missed",
}


@dataclass(frozen=True)
class Interval:
    """An AP with its interval by the bootstrap over images."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class ErrorTypes:
    """What a set of results gets wrong, without looking inside the model.

    Attributes:
        interval: AP and the interval that holds it with 95% confidence.
        tide: by kind of error, the AP at IoU .5 that mending all of them gives back, over all scores.
        tide_counts: by kind of error, how many there are, over all scores.
        calibration_error: expected calibration error: mean distance of score and share of right detections.
        bins: tenths of the score: mean score, share of right detections, count.
        classes: names of the rows and columns of the confusion matrix, the last of which is nothing.
        confusion: [K + 1][K + 1] detections from the threshold up: row annotated, column detected.
        slices: AP of parts of the images by name, with the number of images.
    """

    interval: Interval
    tide: dict[str, float]
    tide_counts: dict[str, int]
    calibration_error: float
    bins: tuple[tuple[float, float, int], ...]
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    slices: dict[str, tuple[float | None, int]]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def error_types(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], threshold: float
) -> ErrorTypes:
    """Return kinds of errors, calibration, confusion and slices of detection results.

    Args:
        ground_truth: COCO dataset.
        results: COCO results, with all scores.
        threshold: minimum score of the detections in the confusion matrix.
    """
    import hotcoco

    truth = hotcoco.COCO(dict(ground_truth))
    evaluator = _evaluated(truth, results)
    nothing = _evaluated(truth, [])
    compared = hotcoco.compare(nothing, evaluator, n_bootstrap=SAMPLES, seed=0, confidence=CONFIDENCE)
    interval = compared["ci"]["AP"]
    errors, calibration = evaluator.tide_errors(), evaluator.calibration()
    kept = _evaluated(truth, [row for row in results if row["score"] >= threshold])
    confusion = kept.confusion_matrix()
    counts: dict[Any, int] = {image["id"]: 0 for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        counts[annotation["image_id"]] += 1
    sliced = evaluator.slice_by(lambda image: _slice(counts[image["id"]]))
    return ErrorTypes(
        interval=Interval(_number(compared["metrics_b"]["AP"]), interval["lower"], interval["upper"]),
        tide={name: errors["delta_ap"][key] for key, name in TIDE.items()},
        tide_counts={name: int(errors["counts"][key]) for key, name in TIDE.items()},
        calibration_error=calibration["ece"],
        bins=tuple((b["avg_confidence"], b["avg_accuracy"], int(b["count"])) for b in calibration["bins"]),
        classes=(*confusion["cat_names"], "nothing"),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion["matrix"]),
        slices={
            name: (_number(row["AP"]), int(row["num_images"]))
            for name, row in sorted(sliced.items())
            if name != "_overall"
        },
    )


def _evaluated(truth: Any, results: Sequence[Mapping[str, Any]]) -> Any:
    import hotcoco

    evaluator = hotcoco.COCOeval(truth, truth.load_res([dict(row) for row in results]), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _slice(objects: int) -> str:
    if objects == 0:
        return "no objects"
    return (
        "1 object"
        if objects == 1
        else f"2 to {MANY - 1} objects"
        if objects < MANY
        else f"{MANY} objects or more"
    )


def _number(value: float) -> float | None:
    """Return an AP; None where there is nothing to measure against."""
    return None if value < 0 else float(value)
