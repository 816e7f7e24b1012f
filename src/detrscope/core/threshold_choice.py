"""The threshold of a detection: a number, or a goal that the threshold table of the model's card answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.operating_points import Goal, OperatingPoint, ThresholdCurve, ThresholdTable

PER_CLASS = "per-class"
FORMS = (
    f"a score such as 0.7, f1, precision=0.9 or recall=0.8; with ',{PER_CLASS}' a threshold for each class"
)


@dataclass(frozen=True)
class Thresholds:
    """Minimum scores of the classes.

    Attributes:
        values: one for all classes, or a tuple with one for each class, in the order of the model's classes.
        note: how they were found, for the log; empty for a number that was given.
    """

    values: float | tuple[float, ...]
    note: str = ""


def find_thresholds(
    choice: float | str | tuple[float, ...], table: ThresholdTable | None, classes: ClassTable
) -> Thresholds:
    """Return the thresholds that a number or a text asks for.

    With `per-class`, classes that the table lacks and classes that cannot reach the goal have the threshold of all
    classes together; the note counts them.

    Args:
        choice: number, text such as `precision=0.9` or `f1,per-class`, or a number for each class.
        table: operating points in the model's card.
        classes: classes of the model.

    Raises:
        UserError: not a threshold, a goal without a table, or a goal that no threshold reaches.
    """
    if isinstance(choice, tuple):
        if len(choice) != len(classes):
            raise UserError(
                f"threshold: expected one for each of {len(classes)} classes, found {len(choice)}"
            )
        return Thresholds(tuple(map(_check_score, choice)))
    parsed = choice if isinstance(choice, float | int) else _parse(choice)
    if isinstance(parsed, float | int):
        return Thresholds(_check_score(parsed))
    goal, per_class = parsed
    if table is None:
        raise UserError(
            f"threshold '{choice}': the model has no table of thresholds; evaluate it on a validation set with"
            " store_thresholds=True, or give a score between 0 and 1"
        )
    where = f"on {table.source} ({table.images} images)"
    point = _best(table.all_classes, goal, where)
    if not per_class:
        return Thresholds(point.threshold, f"{goal}: {_described(point)} {where}")
    curves = [table.per_class.get(category_id) for category_id in classes.ids]
    found = [None if curve is None else curve.best(goal) for curve in curves]
    values = tuple(point.threshold if own is None else own.threshold for own in found)
    rows = [f"{name} {own.threshold:.3g}" for name, own in zip(classes.names, found, strict=True) if own]
    listed = ", ".join(rows[:12]) + (f" and {len(rows) - 12} more" if len(rows) > 12 else "")
    note = f"{goal} {where}: threshold {listed}"
    if without := len(found) - len(rows):
        note += (
            f"; {without} classes have no boxes there or cannot reach it and have that of all classes together, "
            f"{point.threshold:.3g}"
        )
    return Thresholds(values, note)


def check_threshold_form(choice: float | str) -> None:
    """Check that a number or a text is a threshold, before a model is loaded.

    Raises:
        UserError: it is not.
    """
    parsed = choice if isinstance(choice, float | int) else _parse(choice)
    if isinstance(parsed, float | int):
        _check_score(parsed)


def _parse(text: str) -> float | tuple[Goal, bool]:
    """Return the number in a text, or the goal and whether each class has its own threshold."""
    words = [word.strip() for word in text.split(",")]
    per_class = words[1:] == [PER_CLASS]
    if len(words) == 1 or per_class:
        kind, equals, value = (part.strip() for part in words[0].partition("="))
        if kind == "f1" and not equals:
            return Goal("f1"), per_class
        if kind in ("precision", "recall") and (number := _number(value)) is not None:
            if not 0 < number <= 1:
                raise UserError(f"threshold {short_repr(text)}: expected a {kind} above 0 and at most 1")
            return Goal("precision" if kind == "precision" else "recall", number), per_class
        if not per_class and (number := _number(words[0])) is not None:
            return number
    raise UserError(f"threshold {short_repr(text)}: expected {FORMS}")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _check_score(value: float) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"threshold {value}: expected a score between 0 and 1")
    return float(value)


def _best(curve: ThresholdCurve, goal: Goal, where: str) -> OperatingPoint:
    point = curve.best(goal)
    if point is None:
        highest = f"the highest {goal.kind} of any threshold is {curve.highest(goal.kind):.3f}"
        reason = highest if curve.thresholds else "no detection was right"
        raise UserError(f"threshold '{goal}': cannot be reached {where}: {reason}")
    return point


def _described(point: OperatingPoint) -> str:
    return (
        f"threshold {point.threshold:.4g}, precision {point.precision:.3f}, recall {point.recall:.3f}, "
        f"F1 {point.f1:.3f}"
    )
