"""The figure of a benchmark: lines over what the grid varies, or bars where it varies nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

from detrscope.commands.benchmark_rows import STAGES, Benchmark, BenchmarkRow
from detrscope.views.benchmark import Growth, Line, draw_growth, draw_side_by_side
from detrscope.views.canvas import Drawing

Key = Callable[[BenchmarkRow], float]
# axis -> its value in a row, and what else has to be the same along a line
AXES: dict[str, tuple[Key, Callable[[BenchmarkRow], object]]] = {
    "image size, megapixels": (
        lambda row: row.height * row.width / 1e6,
        lambda row: (row.batch, row.queries),
    ),
    "queries": (lambda row: row.queries or 0, lambda row: (row.height, row.width, row.batch)),
    "batch": (lambda row: row.batch, lambda row: (row.height, row.width, row.queries)),
}


def draw_result(result: Benchmark, path: str | Path | None = None) -> Drawing:
    """Draw time and memory of a benchmark; along an axis, the others have their first value."""
    title = f"{result.model}: {result.machine}"
    rows = [row for row in result.rows if row.seconds]
    growths = []
    for axis, (value, others) in AXES.items():
        if len({value(row) for row in rows}) > 1:
            fixed = [row for row in rows if others(row) == others(rows[0])]
            growths.append(
                Growth(
                    axis,
                    _lines(fixed, value, lambda row: 1000 / row.images_per_second),
                    _lines(
                        [row for row in fixed if row.memory is not None],
                        value,
                        lambda row: row.memory.peak if row.memory else 0,
                    ),
                )
            )
    if growths:
        return draw_growth(growths, path, title=title)
    charts = {"ms an image, median": {row.name: 1000 / row.images_per_second for row in rows}}
    if memory := {row.name: row.memory.peak for row in rows if row.memory is not None}:
        charts["peak memory, MiB"] = memory
    for row in rows:
        if row.stages:
            charts[f"{row.name}: ms of each stage"] = {s: 1000 * median(row.stages[s]) for s in STAGES}
    return draw_side_by_side(charts, path, title=title)


def _lines(rows: list[BenchmarkRow], x: Key, y: Key) -> dict[str, Line]:
    """Return a line for each side, in the order of x."""
    lines: dict[str, Line] = {}
    for name in dict.fromkeys(row.name for row in rows):
        points = sorted((x(row), y(row)) for row in rows if row.name == name)
        lines[name] = ([point[0] for point in points], [point[1] for point in points])
    return lines
