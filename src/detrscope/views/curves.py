"""Losses, AP and learning rates of one run or several, epoch by epoch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from detrscope.core.errors import UserError
from detrscope.views.canvas import Picture, Plot, line_style

METRICS = "metrics.jsonl"
_LOSS = re.compile(
    r"(train|val)/loss(_[a-z_]*[a-z])?"
)  # totals and terms; not those of single decoder layers
_AP = re.compile(r"val/AP(50|75|_small|_medium|_large)?")
_RATE = re.compile(r"lr(/.+)?")


@dataclass(frozen=True)
class Run:
    """The metrics of one run: for each key its epochs and values, what is not a finite number left out."""

    name: str
    series: dict[str, tuple[list[float], list[float]]]


def draw_curves(runs: Sequence[str | Path], path: str | Path | None = None) -> Picture:
    """Losses, AP and learning rates over the epochs.

    One run: a line for every loss term, AP and learning rate. Several runs: a colour for each run, with its
    total losses (validation dashed), AP (AP50 dashed) and largest learning rate, so that runs can be told
    apart.

    Args:
        runs: run folders, or their `metrics.jsonl`. A last line that is half written is left out.
        path: where to save the picture; None to keep it in memory.

    Returns:
        The picture.

    Raises:
        UserError: a run without metrics, or a line before the last that is not a JSON object.
    """
    read = [read_run(run) for run in runs]
    labels = _distinct([Path(run) for run in runs], read)
    plot = Plot(1500, 480)
    losses, precision, rates = plot.grid(1, 3)
    if len(read) == 1:
        titles = ["loss", "AP, %", "learning rate"]
        _one_run(read[0], losses, precision, rates)
    else:
        titles = ["loss, of validation dashed", "AP, AP50 dashed, %", "learning rate"]
        _several_runs(read, labels, losses, precision, rates)
    for ax, title in zip((losses, precision, rates), titles, strict=True):
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch", fontsize=9)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.ticklabel_format(axis="y", scilimits=(-2, 4))
        if not ax.lines:
            ax.text(0.5, 0.5, "nothing yet", transform=ax.transAxes, ha="center", va="center", color="0.4")
            continue
        ax.legend(fontsize=8, frameon=False)
        low, high = ax.dataLim.intervalx
        if low == high:
            ax.set_xlim(low - 1, high + 1)
    if len(read) == 1:
        plot.figure().suptitle(labels[0], fontsize=11)
    if path is not None:
        plot.save(path)
    return plot


def read_run(run: str | Path) -> Run:
    """The metrics of one run; of several lines of one epoch, as after a resume, the later values win.

    Raises:
        UserError: no metrics, or a line before the last that is not a JSON object.
    """
    file = Path(run)
    if file.is_dir():
        file = file / METRICS
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{file}: cannot be read ({reason}); expected a run folder with {METRICS}") from None
    points: dict[str, dict[float, float]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = dict(json.loads(line))
        except (ValueError, TypeError):
            if number == len(lines):
                break  # still being written
            raise UserError(f"{file}:{number}: expected a JSON object with the metrics of an epoch") from None
        epoch = record.get("epoch", number)
        for key, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(key, {})[epoch] = value
    series = {key: (sorted(p), [p[x] for x in sorted(p)]) for key, p in points.items()}
    return Run(file.resolve().parent.name, series)


def _one_run(run: Run, losses: Axes, precision: Axes, rates: Axes) -> None:
    series = run.series
    for index, key in enumerate(_matching(series, _LOSS)):
        _line(losses, series[key], label=key, **line_style(index))
    for index, key in enumerate(_matching(series, _AP)):
        _line(precision, _percent(series[key]), label=key.removeprefix("val/"), **line_style(index))
    _mark_best(precision, series.get("val/AP"))
    for index, key in enumerate(_matching(series, _RATE)):
        _line(rates, series[key], label=key.removeprefix("lr/"), **line_style(index))


def _several_runs(runs: list[Run], labels: list[str], losses: Axes, precision: Axes, rates: Axes) -> None:
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        style = line_style(index)
        dashed = {**style, "linestyle": "--", "linewidth": 1.0}
        _line(losses, run.series.get("train/loss"), label=label, **style)
        _line(losses, run.series.get("val/loss"), **dashed)
        _line(precision, _percent(run.series.get("val/AP")), label=label, **style)
        _line(precision, _percent(run.series.get("val/AP50")), **dashed)
        _mark_best(precision, run.series.get("val/AP"))
        highest = max(_matching(run.series, _RATE), key=lambda key: max(run.series[key][1]), default=None)
        _line(rates, run.series.get(highest or ""), label=label, **style)


def _matching(series: dict[str, tuple[list[float], list[float]]], pattern: re.Pattern[str]) -> list[str]:
    return [key for key in series if pattern.fullmatch(key)]


def _line(ax: Axes, points: tuple[list[float], list[float]] | None, **style: Any) -> None:
    """A line; a dot where there is one epoch only."""
    if points is not None:
        ax.plot(*points, marker="o" if len(points[0]) == 1 else "", markersize=4, **style)


def _percent(points: tuple[list[float], list[float]] | None) -> tuple[list[float], list[float]] | None:
    return None if points is None else (points[0], [100 * value for value in points[1]])


def _mark_best(ax: Axes, points: tuple[list[float], list[float]] | None) -> None:
    """The best AP, with its value."""
    if points is None:
        return
    epochs, values = points
    best = max(range(len(values)), key=values.__getitem__)
    ax.plot([epochs[best]], [100 * values[best]], "o", color="black", markersize=4, zorder=5)
    ax.annotate(
        f"{100 * values[best]:.1f}",
        (epochs[best], 100 * values[best]),
        textcoords="offset points",
        xytext=(0, 5),
        ha="center",
        fontsize=8,
    )


def _distinct(paths: list[Path], runs: list[Run]) -> list[str]:
    """Names of the run folders; whole paths where two folders are called the same."""
    names = [run.name for run in runs]
    return [n if names.count(n) == 1 else str(p) for n, p in zip(names, paths, strict=True)]
