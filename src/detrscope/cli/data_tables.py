"""Tables and sentences of `detrscope data check`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from rich.table import Table

from detrscope import console
from detrscope.data.check import Report, Statistics

CLASS_ROWS = 20  # of the table of classes; --json has all


def print_report(report: Report, limit: int) -> None:
    """Print statistics and problems, of each kind the first `limit`."""
    for statistics in report.statistics:
        for line in _summary(statistics).splitlines():
            console.print_line(line)
        console.print_table(_class_table(statistics))
    if report.problems:
        console.print_table(_problem_table(report, limit))
    errors, warnings = report.count("error"), report.count("warning")
    plural = ["s" if n != 1 else "" for n in (errors, warnings)]
    console.print_line(f"{report.source}: {errors} error{plural[0]}, {warnings} warning{plural[1]}")


def _summary(statistics: Statistics) -> str:
    most, mean = statistics.boxes_per_image["most"], statistics.boxes_per_image["mean"]
    sizes = {name: "x".join(map(str, size)) for name, size in statistics.image_sizes.items()}
    return (
        f"{statistics.split}: {statistics.images} images ({statistics.images_without_boxes} without boxes), "
        f"{sizes['smallest']} to {sizes['largest']}\n"
        f"{statistics.boxes} boxes (small {statistics.small}, medium {statistics.medium}, large {statistics.large}), "
        f"{mean} an image, at most {most}; {statistics.crowds} crowds (not counted, excluded from training)\n"
        f"left out: {statistics.left_out or 'nothing'}"
    )


def _class_table(statistics: Statistics) -> Table:
    table = Table()
    for name in ("id", "class", "boxes", "images"):
        table.add_column(name, justify="left" if name == "class" else "right")
    rows = sorted(statistics.classes, key=lambda c: -c.boxes)
    for row in rows[:CLASS_ROWS]:
        table.add_row(str(row.id), row.name, str(row.boxes), str(row.images))
    if len(rows) > CLASS_ROWS:
        rest = rows[CLASS_ROWS:]
        table.add_row("", f"... and {len(rest)} more", str(sum(r.boxes for r in rest)), "")
    return table


def _problem_table(report: Report, limit: int) -> Table:
    """Return the problems by kind, errors first: count, remedy and the first `limit` of each."""
    rank = {"error": 0, "warning": 1, "info": 2}
    table = Table(show_lines=False)
    for name in ("split", "file", "annotation", "category", "reason"):
        table.add_column(name, overflow="fold")
    ordered = sorted(report.problems, key=lambda p: (rank[p.severity], p.kind))
    for kind, group in groupby(ordered, key=lambda p: p.kind):
        rows = list(group)
        table.add_section()
        table.add_row("", f"{rows[0].severity}: {kind} ({len(rows)})", "", "", rows[0].fix, style="bold")
        for p in rows[:limit]:
            own = "" if p.annotation is None else str(p.annotation)
            table.add_row(p.split, Path(p.file).name, own, p.category or "", p.reason)
        if len(rows) > limit:
            table.add_row("", f"... and {len(rows) - limit} more", "", "", "")
    return table
