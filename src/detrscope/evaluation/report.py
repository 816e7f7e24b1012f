"""Reports of an evaluation: tables for the terminal, JSON and CSV files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrscope.core.files import atomic_write
from detrscope.core.operating_points import Goal, OperatingPoint, ThresholdCurve
from detrscope.core.safe_text import safe_csv_cell, safe_csv_row
from detrscope.evaluation.accumulate import RECALLS
from detrscope.evaluation.coco_ap import Evaluation
from detrscope.evaluation.panoptic_quality import PanopticQuality
from detrscope.evaluation.threshold_curves import GOALS, operating_points

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
POINT_NUMBERS = ("threshold", "precision", "recall", "F1")
POINT_COLUMNS = tuple(f"{goal} {number}" for goal in GOALS for number in POINT_NUMBERS)


def format_ap(value: float | None) -> str:
    """Return a fraction in percent: 0.4205 -> `42.0`; `-` where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def summary_table(evaluation: Evaluation, what: str = "boxes") -> Table:
    """Return AP and AR over all classes as a table, in percent; `what` names what is compared: boxes or masks."""
    from rich.table import Table

    title = f"{evaluation.images} images, {evaluation.boxes} {what}; percent"
    table = Table(title=title, title_justify="left")
    for heading in ("", "all", "small", "medium", "large"):
        table.add_column(heading, justify="right" if heading else "left")
    e = evaluation
    table.add_row("AP .50:.95", *map(format_ap, (e.AP, e.AP_small, e.AP_medium, e.AP_large)))
    table.add_row("AP50", format_ap(e.AP50))
    table.add_row("AP75", format_ap(e.AP75))
    table.add_row("AR, best 1", format_ap(e.AR_1))
    table.add_row("AR, best 10", format_ap(e.AR_10))
    table.add_row("AR, best 100", *map(format_ap, (e.AR_100, e.AR_small, e.AR_medium, e.AR_large)))
    return table


def panoptic_table(quality: PanopticQuality) -> Table:
    """Return panoptic quality of all classes, of things and of stuff, in percent."""
    from rich.table import Table

    table = Table(title="panoptic quality; percent", title_justify="left")
    for heading in ("", "PQ", "SQ", "RQ", "classes"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, part in (("all", quality.all), ("things", quality.things), ("stuff", quality.stuff)):
        table.add_row(name, *map(format_ap, (part.PQ, part.SQ, part.RQ)), str(part.classes))
    return table


def class_table(evaluation: Evaluation) -> Table:
    """Return a table with a row for each class that has boxes, in percent."""
    from rich.table import Table

    rows = [row for row in evaluation.per_class if row.boxes]
    without = len(evaluation.per_class) - len(rows)
    more = f"; {without} classes without boxes are left out" if without else ""
    table = Table(title=f"per class; percent{more}", title_justify="left")
    for heading in ("id", "class", "boxes", *(c.removeprefix("AP_") for c in COLUMNS)):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for row in rows:
        values = (format_ap(getattr(row, column)) for column in COLUMNS)
        table.add_row(str(row.id), row.name, str(row.boxes), *values)
    return table


def threshold_table(evaluation: Evaluation) -> Table:
    """Return the thresholds of the best F1, a precision and a recall of 0.9, of all classes together."""
    table = _points_table("thresholds at IoU .50, all classes together", "goal")
    for goal, cells in _point_rows(evaluation.thresholds.all_classes):
        table.add_row(goal_text(goal), *cells)
    return table


def class_threshold_table(evaluation: Evaluation) -> Table:
    """Return the thresholds of each class that has boxes."""
    table = _points_table("thresholds at IoU .50, per class", "class", "goal")
    for row, curve in zip(evaluation.per_class, evaluation.thresholds.per_class, strict=True):
        for number, (goal, cells) in enumerate(_point_rows(curve) if row.boxes else ()):
            table.add_row("" if number else row.name, goal_text(goal), *cells)
    return table


def _points_table(title: str, *names: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in ("threshold", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    return table


def _point_rows(curve: ThresholdCurve) -> list[tuple[Goal, list[str]]]:
    """Return threshold, precision, recall and F1 of each goal; the highest there is where none reaches it."""
    rows = []
    for goal, point in operating_points(curve):
        if point is not None:
            numbers = (point.precision, point.recall, point.f1)
            cells = [f"{point.threshold:.4g}", *(f"{value:.3f}" for value in numbers)]
        else:
            cells = ["none", "-", "-", "-"]
            if goal.kind != "f1":
                at = 1 if goal.kind == "precision" else 2
                cells[at] = f"at most {curve.highest(goal.kind):.3f}" if curve.boxes else "-"
        rows.append((goal, cells))
    return rows


def goal_text(goal: Goal) -> str:
    """Return a goal as reports write it: `best F1`, `precision 0.9`."""
    return "best F1" if goal.kind == "f1" else f"{goal.kind} {goal.value:g}"


def write_evaluation_json(path: str | Path, evaluation: Evaluation) -> None:
    """Write every number but the curves, as fractions; null where a number is undefined."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(evaluation.to_json(), indent=1) + "\n", encoding="utf-8")


def write_class_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write one line per class, as fractions; empty where a number is undefined."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "name", "boxes", *COLUMNS, *POINT_COLUMNS))
        for row, curve in zip(evaluation.per_class, evaluation.thresholds.per_class, strict=True):
            values = (getattr(row, column) for column in COLUMNS)
            points = [_point_cells(point) for _, point in operating_points(curve)]
            writer.writerow(
                (row.id, safe_csv_cell(row.name), row.boxes, *values, *(v for cells in points for v in cells))
            )


def _point_cells(point: OperatingPoint | None) -> tuple[Any, ...]:
    """Return threshold, precision, recall and F1; empty cells where no threshold reaches the goal."""
    if point is None:
        return ("",) * len(POINT_NUMBERS)
    return (point.threshold, point.precision, point.recall, point.f1)


def write_thresholds_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write the operating points that no other one exceeds: of all classes together (no id), then of each class."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "name", *POINT_NUMBERS))
        writer.writerows(
            ("", "all classes", *_point_cells(p)) for p in evaluation.thresholds.all_classes.points()
        )
        for row, curve in zip(evaluation.per_class, evaluation.thresholds.per_class, strict=True):
            writer.writerows((row.id, safe_csv_cell(row.name), *_point_cells(p)) for p in curve.points())


def write_precision_recall_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write precision and score at 101 recalls: one line per recall, four columns per class that has boxes.

    The score is the least one that has to count for that recall; it is empty where no score reaches it.
    """
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        headings = ("AP50", "AP75", "score at AP50", "score at AP75")
        names = [f"{curve.name} {heading}" for curve in evaluation.curves for heading in headings]
        writer.writerow(("recall", *safe_csv_row(names)))
        columns: list[Sequence[Any]] = []
        for curve in evaluation.curves:
            columns += [curve.precision_50, curve.precision_75]
            for precision, score in (
                (curve.precision_50, curve.score_50),
                (curve.precision_75, curve.score_75),
            ):
                columns.append([s if p > 0 else "" for p, s in zip(precision, score, strict=True)])
        writer.writerows(zip(RECALLS.round(2).tolist(), *columns, strict=True))
