"""Operating points: precision and recall of a model at score thresholds, measured on a validation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field

from detrscope.core.errors import UserError
from detrscope.core.json_schema import StrictModel

MAX_POINTS = 10_000  # points of one curve in a file; ours have a few hundred
MAX_ID = (1 << 63) - 1


@dataclass(frozen=True)
class Goal:
    """What a threshold has to reach: the best F1, or a precision or recall of at least `value`."""

    kind: Literal["f1", "precision", "recall"]
    value: float = 0.0  # 0..1; without meaning for f1

    def __str__(self) -> str:
        return self.kind if self.kind == "f1" else f"{self.kind}={self.value:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """Precision and recall of the detections that score at least `threshold`."""

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class ThresholdCurve:
    """The operating points of one class, or of all classes together, that no other point exceeds in both numbers.

    Counts are kept, not fractions: they are exact. Without a right detection there are no points.
    """

    boxes: int  # of the ground truth, without crowds
    thresholds: tuple[float, ...]  # falling
    true_positives: tuple[int, ...]  # rising, of the detections that score at least the threshold
    false_positives: tuple[int, ...]

    def points(self) -> list[OperatingPoint]:
        """Return the operating points, from the highest threshold to the lowest."""
        columns = zip(self.thresholds, self.true_positives, self.false_positives, strict=True)
        return [OperatingPoint(t, right / (right + wrong), right / self.boxes) for t, right, wrong in columns]

    def best(self, goal: Goal) -> OperatingPoint | None:
        """Return the point of the best F1, or that of the highest recall (precision) which reaches the goal.

        None where no point reaches it.
        """
        points = self.points()
        if goal.kind == "f1":
            return max(points, key=lambda point: point.f1, default=None)
        if goal.kind == "precision":
            reaching = [point for point in points if point.precision >= goal.value]
            return max(reaching, key=lambda point: point.recall, default=None)
        reaching = [point for point in points if point.recall >= goal.value]
        return max(reaching, key=lambda point: point.precision, default=None)

    def highest(self, kind: Literal["f1", "precision", "recall"]) -> float:
        """Return the highest precision, recall or F1 that any threshold reaches; 0 without points."""
        return max((getattr(point, kind) for point in self.points()), default=0.0)


@dataclass(frozen=True)
class ThresholdTable:
    """Operating points of a model on a validation set, as its card stores them."""

    source: str  # name of the validation set
    images: int
    all_classes: ThresholdCurve  # detections of every class counted together
    per_class: Mapping[int, ThresholdCurve]  # by category id of the model, of the classes that have boxes

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        rows = [{"id": category_id, **_columns(curve)} for category_id, curve in self.per_class.items()]
        return {
            "source": self.source,
            "images": self.images,
            "all_classes": _columns(self.all_classes),
            "per_class": rows,
        }

    @classmethod
    def from_fields(cls, fields: ThresholdFields, name: str) -> ThresholdTable:
        """Return the table of checked fields.

        Raises:
            UserError: columns of unequal length or out of order, or a class that is there twice.
        """
        per_class = {row.id: _curve(row, f"{name}: class {row.id}") for row in fields.per_class}
        if len(per_class) < len(fields.per_class):
            raise UserError(f"{name}: per_class: expected each class once")
        return cls(
            fields.source, fields.images, _curve(fields.all_classes, f"{name}: all_classes"), per_class
        )


def _columns(curve: ThresholdCurve) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(curve).items()}


def _curve(fields: CurveFields, name: str) -> ThresholdCurve:
    thresholds, right, wrong = fields.thresholds, fields.true_positives, fields.false_positives
    if not len(thresholds) == len(right) == len(wrong):
        raise UserError(
            f"{name}: expected columns of one length, found {len(thresholds)}, {len(right)}, {len(wrong)}"
        )
    falling = all(one > other for one, other in pairwise(thresholds))
    rising = all(one < other for one, other in pairwise([0, *right]))
    if not falling or not rising or max(right, default=0) > fields.boxes:
        raise UserError(
            f"{name}: expected falling thresholds and rising true_positives of at most {fields.boxes}"
        )
    return ThresholdCurve(fields.boxes, tuple(thresholds), tuple(right), tuple(wrong))


Count = Annotated[int, Field(ge=0, le=MAX_ID)]


class CurveFields(StrictModel):
    """Threshold curve as JSON."""

    boxes: Count
    thresholds: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=MAX_POINTS)]
    true_positives: Annotated[list[Count], Field(max_length=MAX_POINTS)]
    false_positives: Annotated[list[Count], Field(max_length=MAX_POINTS)]


class ClassCurveFields(CurveFields):
    """Threshold curve of one class as JSON."""

    id: Annotated[int, Field(ge=-MAX_ID, le=MAX_ID)]


class ThresholdFields(StrictModel):
    """Threshold table as JSON."""

    source: str
    images: Count
    all_classes: CurveFields
    per_class: list[ClassCurveFields]
