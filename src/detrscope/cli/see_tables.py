"""Tables that `detrscope see` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detrscope.views import VIEWS

if TYPE_CHECKING:
    from rich.table import Table

    from detrscope.commands.see import SeeResult


def file_table(result: SeeResult) -> Table:
    """Return a line for each view and file."""
    from rich.table import Table

    table = Table("view", "shows", "file", title=result.source)
    for name, view in VIEWS.items():
        if name in result.files:
            table.add_row(name, view.shows, str(result.files[name]))
    for name, path in result.files.items():
        if name not in VIEWS:
            table.add_row("", _size(path.stat().st_size), str(path))
    for name, reason in result.left_out.items():
        table.add_row(name, f"left out: {reason}", "")
    return table


def change_table(result: SeeResult) -> Table:
    """Return a line for each detection before or after the edits."""
    from rich.table import Table

    from detrscope.lens.changes import DetectedBox, summarise_changes

    def described(box: DetectedBox | None, below: float | None) -> str:
        if box is None:
            return "-" if below is None else f"({below:.2f})"
        x0, y0, x1, y1 = box.box_xyxy
        return f"{box.name} {box.score:.2f} #{box.query}  {x0:.0f} {y0:.0f} {x1:.0f} {y1:.0f}"

    title = f"before and after: {summarise_changes(result.changes)}"
    caption = "in brackets: the best score below the threshold in its place"
    missing = any(change.below is not None for change in result.changes)
    table = Table(
        "change", "before", "after", "score", "IoU", title=title, caption=caption if missing else None
    )
    for change in result.changes:
        table.add_row(
            change.kind,
            described(change.before, change.below),
            described(change.after, change.below),
            f"{change.score_change:+.3f}",
            f"{change.iou:.2f}" if change.before and change.after else "-",
        )
    return table


def metric_table(result: SeeResult) -> Table:
    """Return a line for each layer: means over heads and rows."""
    from rich.table import Table

    from detrscope.lens.report import report_layer_means

    columns = ("attention", "layer", "tokens", "distance", "in box", "uniform", "peak in box", "agreement")
    title = "means over heads, queries and tokens; metrics.csv has each head and query"
    table = Table(*columns, title=title)
    for m in report_layer_means(result.measurements):
        table.add_row(
            m.kind,
            str(m.layer),
            f"{m.effective:.1f} of {m.keys}",
            f"{m.distance:.0%} of diagonal",
            _percent(m.in_box),
            _percent(m.box_area),
            _percent(m.pointing),
            "-" if m.agreement is None else f"{m.agreement:.2f}",
        )
    return table


def overview_table(results: Sequence[SeeResult]) -> Table:
    """Return a line for each image."""
    from rich.table import Table

    table = Table("image", "figures", "folder")
    for result in results:
        figures = [name for name in result.files if name in VIEWS]
        folder = next(iter(result.files.values())).parent if result.files else ""
        table.add_row(result.source, str(len(figures)), str(folder))
    return table


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
