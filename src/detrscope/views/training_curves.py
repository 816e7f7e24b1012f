"""Losses, AP and learning rates of training runs by epoch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detrscope.core.errors import UserError
from detrscope.views.canvas import Chart, Drawing, Plot

METRICS = "metrics.jsonl"
LONGEST = 36  # characters of a run's name in the legends
_TERM = re.compile(
    r"(train|val)/loss_([a-z]+)(?:_([a-z_]*[a-z]))?"
)  # term, and the query set where it is another
_AP = re.compile(r"val/AP(50|75|_small|_medium|_large)?")
_RATE = re.compile(r"lr(/.+)?")

Points = tuple[list[float], list[float]]  # epochs, values


@dataclass(frozen=True)
class Run:
    """Metrics of one run: epochs and finite values of each key."""

    name: str
    series: dict[str, Points]


def draw_curves(runs: Sequence[str | Path], path: str | Path | None = None) -> Drawing:
    """Draw losses, AP and learning rates over the epochs.

    One run: the total loss with the sums of other query sets, the terms in the last layer, AP, and learning rates,
    equal ones as one. Several runs: a colour for each run, with its total losses (validation dashed), AP (AP50 dashed)
    and largest learning rate.

    Args:
        runs: run folders, or their `metrics.jsonl`. A half-written last line is left out.
        path: file to write; None to keep the drawing in memory.

    Returns:
        The drawing.

    Raises:
        UserError: a run without metrics, or a line before the last that is not a JSON object.
    """
    read = [read_training_curves(run) for run in runs]
    labels = _distinct([Path(run) for run in runs], read)
    charts: list[Chart]
    if len(read) == 1:
        titles = ["loss, validation dashed", "loss in the last layer", "AP, %", "learning rate"]
        plot = Plot(1800, 480, labels[0])
        losses, terms, precision, rates = charts = plot.grid(1, 4)
        _one_run(read[0], losses, terms, precision, rates)
    else:
        titles = ["loss, validation dashed", "AP, AP50 dashed, %", "learning rate"]
        plot = Plot(1500, 480)
        losses, precision, rates = charts = plot.grid(1, 3)
        _several_runs(read, labels, losses, precision, rates)
    for chart, title in zip(charts, titles, strict=True):
        chart.titles(title, x="epoch")
        chart.limits(y=(0, None))
        chart.scientific_ticks()
        if chart.empty:
            chart.note("nothing yet")
        else:
            chart.legend_below()
            chart.integer_ticks()
    if path is not None:
        plot.save(path)
    return plot


def read_training_curves(run: str | Path) -> Run:
    """Return the metrics of one run; of several lines of one epoch, as after a resume, the later values win.

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


def _one_run(run: Run, losses: Chart, terms: Chart, precision: Chart, rates: Chart) -> None:
    series = run.series
    total = {
        ("total", key.partition("/")[0]): series[key] for key in ("train/loss", "val/loss") if key in series
    }
    for chart, groups in (
        (losses, total | _loss_terms(series, of_sets=True)),
        (terms, _loss_terms(series, of_sets=False)),
    ):
        names = list(dict.fromkeys(name for name, _ in groups))
        for (name, part), points in groups.items():
            dashed = part == "val" and (name, "train") in groups
            chart.line(*points, names.index(name), label="" if dashed else name, dashed=dashed)
    for index, key in enumerate(_matching(series, _AP)):
        precision.line(*_percent(series[key]), index, label=key.removeprefix("val/"))
    _mark_best(precision, series)
    alike: dict[tuple[float, ...], list[str]] = {}
    for key in _matching(series, _RATE):
        alike.setdefault((*series[key][0], *series[key][1]), []).append(key)
    for index, keys in enumerate(alike.values()):
        label = ", ".join(dict.fromkeys(key.removeprefix("lr/").partition(".")[0] for key in keys))
        rates.line(*series[keys[0]], index, label=label)


def _several_runs(runs: list[Run], labels: list[str], losses: Chart, precision: Chart, rates: Chart) -> None:
    for index, (run, label) in enumerate(zip(runs, labels, strict=True)):
        series = run.series
        highest = max(_matching(series, _RATE), key=lambda key: max(series[key][1]), default="")
        for chart, key, is_second in (
            (losses, "train/loss", False),
            (losses, "val/loss", True),
            (precision, "val/AP", False),
            (precision, "val/AP50", True),
            (rates, highest, False),
        ):
            if key in series:
                points = _percent(series[key]) if chart is precision else series[key]
                if is_second:
                    chart.line(*points, index, dashed=True, width=1.0)
                else:
                    chart.line(*points, index, label=label)
        _mark_best(precision, series)


def _loss_terms(series: dict[str, Points], *, of_sets: bool) -> dict[tuple[str, str], Points]:
    """Return losses by name and by `train` or `val`: sums of other query sets, or the terms in the last layer."""
    sums: dict[tuple[str, str], dict[float, list[float]]] = {}
    for key, (epochs, values) in series.items():
        match = _TERM.fullmatch(key)
        if match and (match[3] is not None) == of_sets:
            of_epoch = sums.setdefault((match[3] or match[2], match[1]), {})
            for epoch, value in zip(epochs, values, strict=True):
                of_epoch.setdefault(epoch, []).append(value)
    return {name: ([*of], [sum(values) for values in of.values()]) for name, of in sums.items()}


def _matching(series: dict[str, Points], pattern: re.Pattern[str]) -> list[str]:
    return [key for key in series if pattern.fullmatch(key)]


def _percent(points: Points) -> Points:
    return points[0], [100 * value for value in points[1]]


def _mark_best(chart: Chart, series: dict[str, Points]) -> None:
    """Mark the best AP with its value."""
    if "val/AP" not in series:
        return
    epochs, values = _percent(series["val/AP"])
    best = max(range(len(values)), key=values.__getitem__)
    chart.mark(epochs[best], values[best], f"{values[best]:.1f}")


def _distinct(paths: list[Path], runs: list[Run]) -> list[str]:
    """Return the names of the run folders, of equal ones with as many folders above as tell them apart; cut if long."""
    names = [run.name for run in runs]
    parts = [path.resolve().parts if path.is_dir() else path.resolve().parts[:-1] for path in paths]
    labels = []
    for name, own in zip(names, parts, strict=True):
        alike = [other for other, theirs in zip(parts, names, strict=True) if theirs == name and other != own]
        depth = 1
        while any(other[-depth:] == own[-depth:] for other in alike) and depth < len(own):
            depth += 1
        label = "/".join(own[-depth:]) if depth > 1 else name
        labels.append(
            label if len(label) <= LONGEST else f"{label[: LONGEST // 2 - 2]}...{label[-LONGEST // 2 + 2 :]}"
        )
    return labels
