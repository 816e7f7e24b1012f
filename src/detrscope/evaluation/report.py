"""Reports of an evaluation: tables for the terminal, JSON and CSV files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

from detrscope.core.files import atomic_write
from detrscope.core.safe_text import safe_csv_cell, safe_csv_row
from detrscope.evaluation.accumulate import RECALLS
from detrscope.evaluation.coco_ap import Evaluation

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def format_ap(value: float | None) -> str:
    """Return a fraction in percent: 0.4205 -> `42.0`; `-` where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def summary_table(evaluation: Evaluation) -> Table:
    """Return AP and AR over all classes as a table, in percent."""
    from rich.table import Table

    table = Table(
        title=f"{evaluation.images} images, {evaluation.boxes} boxes; percent", title_justify="left"
    )
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


def write_evaluation_json(path: str | Path, evaluation: Evaluation) -> None:
    """Write every number but the curves, as fractions; null where a number is undefined."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(evaluation.to_json(), indent=1) + "\n", encoding="utf-8")


def write_class_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write one line per class, as fractions; empty where a number is undefined."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "name", "boxes", *COLUMNS))
        for row in evaluation.per_class:
            values = (getattr(row, column) for column in COLUMNS)
            writer.writerow((row.id, safe_csv_cell(row.name), row.boxes, *values))


def write_precision_recall_csv(path: str | Path, evaluation: Evaluation) -> None:
    """Write precision at 101 recalls: one line per recall, two columns per class that has boxes."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [f"{curve.name} {iou}" for curve in evaluation.curves for iou in ("AP50", "AP75")]
        writer.writerow(("recall", *safe_csv_row(names)))
        columns = [p for curve in evaluation.curves for p in (curve.precision_50, curve.precision_75)]
        writer.writerows(zip(RECALLS.round(2).tolist(), *columns, strict=True))
