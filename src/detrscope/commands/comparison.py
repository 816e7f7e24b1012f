"""The result of `compare`: what it measured of every model, and its files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detrscope.core.files import atomic_write
from detrscope.core.safe_text import safe_csv_row
from detrscope.evaluation.bootstrap import APDifference
from detrscope.evaluation.coco_ap import ClassScore, Evaluation
from detrscope.inference.image_prediction import BoxCounts

JSON, CSV = "compare.json", "compare.csv"
CLASS_COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


@dataclass(frozen=True)
class Timing:
    """Time of one image, preprocessing included and reading of the file excluded, in milliseconds."""

    median: float
    fastest: float
    slowest: float
    cpu_median: float  # time of all cores of this process: stays the same where others use the machine too


@dataclass(frozen=True)
class ModelReport:
    """What was measured of one model.

    Attributes:
        name: name in tables and pictures; unique in a comparison.
        variant: architecture.
        source: origin of the weights.
        kind: "set prediction" or "proposals and NMS".
        classes: number of classes.
        parameters: number of parameters, in millions; None where the engine does not tell.
        device: device that computed.
        precision: precision of weights and activations.
        timing: time of one image.
        boxes: boxes of all images, from candidates to detections.
        found: objects found; None without ground truth.
        extra: detections that match no object and no crowd; None without ground truth.
        evaluation: COCO's metrics; None without ground truth.
        AP_with_nms: AP if NMS per class, at IoU .5, is applied to the predictions; None without ground truth.
    """

    name: str
    variant: str
    source: str
    kind: str
    classes: int
    parameters: float | None
    device: str
    precision: str
    timing: Timing
    boxes: BoxCounts
    found: int | None
    extra: int | None
    evaluation: Evaluation | None
    AP_with_nms: float | None

    def to_json(self) -> dict[str, Any]:
        """Return every number as plain data."""
        fields = {**vars(self), "timing_ms": asdict(self.timing), "boxes": asdict(self.boxes)}
        fields.pop("timing")
        fields["evaluation"] = None if self.evaluation is None else self.evaluation.to_json()
        return fields


@dataclass(frozen=True)
class ModelDifference:
    """AP of one model less that of another on the same images.

    Attributes:
        first: index of the model in the comparison.
        second: index of the model whose AP is taken away.
        AP: the difference, with the interval that other images would give.
    """

    first: int
    second: int
    AP: APDifference

    def to_json(self) -> dict[str, Any]:
        """Return every number as plain data."""
        return {"first": self.first, "second": self.second, "AP": self.AP.to_json()}


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        models: what was measured of each model, in the order given.
        images: number of images.
        objects: objects of the ground truth, without crowds; None without ground truth.
        threshold: least score of the boxes that are counted, matched and drawn.
        only: `only[a][b]`: objects that model a finds and model b does not; without ground truth, detections of a that
            have no partner of the same class in those of b.
        machine: the machine that ran this.
        differences: of AP, of every two models; empty without ground truth.
        pictures: files of pictures that were written.
    """

    models: tuple[ModelReport, ...]
    images: int
    objects: int | None
    threshold: float
    only: tuple[tuple[int, ...], ...]
    machine: str
    differences: tuple[ModelDifference, ...] = ()
    pictures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return every number as plain data."""
        differences = [difference.to_json() for difference in self.differences]
        return {
            **vars(self),
            "models": [model.to_json() for model in self.models],
            "differences": differences,
        }

    def class_rows(self) -> list[tuple[ClassScore, ...]]:
        """Return the AP of each class that has boxes, for every model; nothing without ground truth."""
        evaluations = [model.evaluation.per_class for model in self.models if model.evaluation is not None]
        return [scores for scores in zip(*evaluations, strict=True) if scores[0].boxes]


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write `compare.json`, and `compare.csv` with a line for each model and class, as fractions."""
    with atomic_write(folder / JSON) as path:
        path.write_text(json.dumps(comparison.to_json(), indent=1) + "\n", encoding="utf-8")
    if not comparison.class_rows():
        return
    with atomic_write(folder / CSV) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "id", "class", "boxes", *CLASS_COLUMNS))
        for scores in comparison.class_rows():
            for model, score in zip(comparison.models, scores, strict=True):
                writer.writerow(safe_csv_row(_csv_row(model.name, score)))


def _csv_row(model: str, score: ClassScore) -> Sequence[Any]:
    return (model, score.id, score.name, score.boxes, *(getattr(score, column) for column in CLASS_COLUMNS))
