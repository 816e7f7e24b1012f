"""What a set of results gets wrong, without looking inside the model: kinds, calibration, confusion, slices, labels.

hotcoco computes them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from detrscope.evaluation.bootstrap import Interval, ap_interval, defined, evaluate_results

SUSPECT_SCORE = (
    0.8  # of a detection where nothing is annotated, or with another class: the annotation may be wrong
)
MANY = 10  # objects in an image of the slice "many objects"
SIDES = (
    0,
    8,
    16,
    32,
    64,
    128,
    256,
    512,
)  # pixels, square root of a box's area: where the bins of sizes begin
MEGAPIXELS = (0.1, 0.3, 1.0)  # borders of the slices by number of pixels
ASPECTS = (3 / 4, 4 / 3)  # borders of the slices by width over height
AREAS = ("small: under 32 x 32", "medium", "large: from 96 x 96")
NUMBERS = ("no objects", "1 object", f"2 to {MANY - 1} objects", f"{MANY} objects or more")
PIXELS = ("under 0.1 megapixels", "0.1 to 0.3 megapixels", "0.3 to 1 megapixel", "1 megapixel or more")
SHAPES = ("tall: under 3:4", "about square", "wide: from 4:3")
TIDE = {  # Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020), section 2
    "Cls": "wrong class",
    "Loc": "badly placed",
    "Both": "wrong class and badly placed",
    "Dupe": "duplicate",
    "Bkg": "on nothing",
    "Miss": "missed",
}


@dataclass(frozen=True)
class SizeBin:
    """Objects and detections of a range of sizes, at the threshold.

    Attributes:
        side: square root of the area in pixels from which the bin begins; it ends where the next one begins.
        found: objects that are found.
        missed: objects that are not.
        right: detections that find an object.
        wrong: those that find none; on crowds they count as neither.
    """

    side: int
    found: int
    missed: int
    right: int
    wrong: int


@dataclass(frozen=True)
class Slice:
    """AP of a part of the dataset.

    Attributes:
        by: what the dataset is divided by.
        name: the part.
        count: its images, or its objects where it is divided by their size.
        AP: of the part; None without objects.
    """

    by: str
    name: str
    count: int
    AP: float | None


@dataclass(frozen=True)
class SuspectedLabel:
    """An annotation that may be wrong or missing: the model is sure of something else.

    Attributes:
        image_id: id of the image.
        file_name: its file.
        kind: nothing is annotated where the model sees an object, or another class.
        detected: class that the model sees.
        score: its score.
        bbox_xywh: its box in pixels.
        annotated: annotated class; empty where nothing is.
        annotation: id of the annotation; None where nothing is.
    """

    image_id: Any
    file_name: str
    kind: Literal["missing annotation", "wrong class"]
    detected: str
    score: float
    bbox_xywh: tuple[float, float, float, float]
    annotated: str
    annotation: int | None


@dataclass(frozen=True)
class ErrorTypes:
    """What a set of results gets wrong, without looking inside the model.

    Attributes:
        interval: AP and the interval that holds it with 95% confidence.
        tide: by kind of error, the AP at IoU .5 that mending all of them gives back, over all scores.
        tide_counts: by kind of error, how many there are, over all scores.
        calibration_error: expected calibration error: mean distance of score and share of right detections.
        bins: tenths of the score: mean score, share of right detections, count.
        sizes: objects and detections by the size of their boxes.
        classes: names of the rows and columns of the confusion matrix, the last of which is nothing.
        confusion: [K + 1][K + 1] detections from the threshold up: row annotated, column detected.
        slices: AP of parts of the dataset.
        suspected: annotations that may be wrong or missing, the surest first.
    """

    interval: Interval
    tide: dict[str, float]
    tide_counts: dict[str, int]
    calibration_error: float
    bins: tuple[tuple[float, float, int], ...]
    sizes: tuple[SizeBin, ...]
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    slices: tuple[Slice, ...]
    suspected: tuple[SuspectedLabel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def error_types(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    threshold: float,
    annotation_ids: Sequence[int] | None = None,
) -> ErrorTypes:
    """Return kinds of errors, calibration, confusion, sizes, slices and suspected annotations of detection results.

    Args:
        ground_truth: COCO dataset.
        results: COCO results, with all scores.
        threshold: minimum score of the detections in the confusion matrix and among the sizes.
        annotation_ids: names of the annotations for the result, in their order; None takes their ids.
    """
    import hotcoco

    truth = hotcoco.COCO(dict(ground_truth))
    evaluator = evaluate_results(truth, results)
    errors, calibration = evaluator.tide_errors(), evaluator.calibration()
    detections = [row for row in results if row["score"] >= threshold]
    kept = evaluate_results(truth, detections)
    confusion = _confusion(truth, detections, kept)
    return ErrorTypes(
        interval=ap_interval(truth, evaluator, len(results)),
        tide={name: errors["delta_ap"][key] for key, name in TIDE.items()},
        tide_counts={name: int(errors["counts"][key]) for key, name in TIDE.items()},
        calibration_error=calibration["ece"],
        bins=tuple((b["avg_confidence"], b["avg_accuracy"], int(b["count"])) for b in calibration["bins"]),
        sizes=_sizes(ground_truth, detections, kept),
        classes=(*confusion["cat_names"], "nothing"),
        confusion=tuple(tuple(int(n) for n in row) for row in confusion["matrix"]),
        slices=_slices(ground_truth, evaluator),
        suspected=_suspected(ground_truth, results, evaluator, annotation_ids),
    )


def _confusion(truth: Any, detections: Sequence[Mapping[str, Any]], kept: Any) -> dict[str, Any]:
    """Return hotcoco's confusion matrix of detections, without those on crowds, however many an image has."""
    statuses = kept.image_diagnostics()["dt_status"]  # ids are given in their order; none: on a crowd
    counted = [row for number, row in enumerate(detections, start=1) if number in statuses]
    matrix: dict[str, Any] = evaluate_results(truth, counted).confusion_matrix(max_det=max(len(counted), 1))
    return matrix


def _sizes(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], evaluator: Any
) -> tuple[SizeBin, ...]:
    """Return objects and detections by the size of their boxes."""
    statuses = evaluator.image_diagnostics()
    counts = [dict.fromkeys(("found", "missed", "right", "wrong"), 0) for _ in SIDES]
    objects = {"matched": "found", "fn": "missed"}
    for annotation in ground_truth["annotations"]:
        if column := objects.get(statuses["gt_status"].get(annotation["id"], "")):
            counts[_size_bin(annotation["bbox"])][column] += 1
    outcomes = {"tp": "right", "fp": "wrong"}
    for number, detection in enumerate(detections, start=1):  # ids are given in their order
        if column := outcomes.get(statuses["dt_status"].get(number, "")):
            counts[_size_bin(detection["bbox"])][column] += 1
    return tuple(SizeBin(side, **count) for side, count in zip(SIDES, counts, strict=True))


def _size_bin(bbox: Sequence[float]) -> int:
    return bisect_right(SIDES, max(bbox[2] * bbox[3], 0.0) ** 0.5) - 1


def _slices(ground_truth: Mapping[str, Any], evaluator: Any) -> tuple[Slice, ...]:
    """Return AP by the objects' size, and by their number, the pixels and the shape of images."""
    counts: dict[Any, int] = {image["id"]: 0 for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        counts[annotation["image_id"]] += not annotation.get("iscrowd")
    names: dict[str, tuple[Callable[[Mapping[str, Any]], str], tuple[str, ...]]] = {
        "number of objects": (lambda image: NUMBERS[_number_of(counts[image["id"]])], NUMBERS),
        "pixels": (lambda image: PIXELS[_place(image["width"] * image["height"] / 1e6, MEGAPIXELS)], PIXELS),
        "shape": (lambda image: SHAPES[_place(image["width"] / max(image["height"], 1), ASPECTS)], SHAPES),
    }
    slices = _size_slices(ground_truth, evaluator)
    for by, (name_of, order) in names.items():
        sliced = evaluator.slice_by(name_of)
        slices += [
            Slice(by, name, int(sliced[name]["num_images"]), defined(sliced[name]["AP"]))
            for name in order
            if name in sliced
        ]
    return tuple(slices)


def _size_slices(ground_truth: Mapping[str, Any], evaluator: Any) -> list[Slice]:
    """Return COCO's APs of small, medium and large objects."""
    evaluator.summary_lines()  # computes the metrics; `summarize` would print them
    metrics = evaluator.get_results()
    areas = [
        annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3])
        for annotation in ground_truth["annotations"]
        if not annotation.get("iscrowd")
    ]
    counts = [0, 0, 0]
    for area in areas:
        counts[_place(area, (32.0**2, 96.0**2))] += 1
    return [
        Slice("size of objects", name, count, defined(metrics[key]))
        for name, count, key in zip(AREAS, counts, ("APs", "APm", "APl"), strict=True)
        if count
    ]


def _number_of(objects: int) -> int:
    return 0 if objects == 0 else 1 if objects == 1 else 2 if objects < MANY else 3


def _place(value: float, borders: Sequence[float]) -> int:
    return bisect_right(borders, value)


def _suspected(
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    evaluator: Any,
    annotation_ids: Sequence[int] | None,
) -> tuple[SuspectedLabel, ...]:
    """Return annotations that a sure detection contradicts."""
    ids = [annotation["id"] for annotation in ground_truth["annotations"]]
    names = dict(zip(ids, ids if annotation_ids is None else annotation_ids, strict=True))
    files = {image["id"]: image.get("file_name", "") for image in ground_truth["images"]}
    found = []
    for error in evaluator.image_diagnostics(score_thr=SUSPECT_SCORE)["label_errors"]:
        x, y, width, height = map(float, results[error["dt_id"] - 1]["bbox"])
        found.append(
            SuspectedLabel(
                error["image_id"],
                files[error["image_id"]],
                "wrong class" if error["type"] == "wrong_label" else "missing annotation",
                error["dt_category"],
                float(error["dt_score"]),
                (x, y, width, height),
                error["gt_category"] or "",
                None if error["gt_id"] is None else names[error["gt_id"]],
            )
        )
    return tuple(sorted(found, key=lambda one: -one.score))
