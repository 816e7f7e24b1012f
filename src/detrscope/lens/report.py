"""Summaries of measurements: how encoder and decoder attention differ, in words, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from detrscope.core.files import atomic_write
from detrscope.core.safe_text import safe_csv_cell
from detrscope.lens.measure import Measurement


def report_layer_means(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurement of each layer: the mean over heads and rows."""
    return [m for m in measurements if m.head is None and m.query is None]


def measured_on_parts(measurements: Sequence[Measurement]) -> Measurement | None:
    """Return the mean of the last decoder layer; None without masks."""
    last = [m for m in report_layer_means(measurements) if m.kind == "decoder.cross"][-1:]
    return last[0] if last and last[0].parts else None


def report_attention_on_parts(measurements: Sequence[Measurement]) -> list[str]:
    """Return what the queries attend to in the last decoder layer, as a sentence; empty without masks."""
    last = measured_on_parts(measurements)
    if last is None:
        return []
    ranked = sorted(last.parts.items(), key=lambda part: -part[1])
    shares = ", ".join(f"{name} {mass:.0%} (area {last.part_areas[name]:.0%})" for name, mass in ranked)
    return [f"On parts, in the last decoder layer: {shares}."]


def report_attention_differences(measurements: Sequence[Measurement]) -> list[str]:
    """Return how encoder and decoder attention differ, a sentence for each metric, from the means over layers.

    Empty where one of the two was not measured.
    """
    layers = report_layer_means(measurements)
    has_encoder = any(m.kind == "encoder.self" for m in layers)
    stack = "encoder" if has_encoder else "backbone"
    encoder = [m for m in layers if m.kind == f"{stack}.self"]
    token = "an encoder token" if has_encoder else "a backbone token"
    decoder = [m for m in layers if m.kind == "decoder.cross"]
    if not encoder or not decoder:
        return []

    def both(metric: Callable[[Measurement], float | None]) -> list[float]:
        values = [[v for m in stack if (v := metric(m)) is not None] for stack in (encoder, decoder)]
        return [fmean(known) if known else float("nan") for known in values]

    tokens, distance = both(lambda m: m.effective), both(lambda m: m.distance)
    box, area, agreement = both(lambda m: m.in_box), both(lambda m: m.box_area), both(lambda m: m.agreement)
    return [
        f"Concentration: {token} attends to {tokens[0]:.1f} of {encoder[0].keys} tokens on average (exp of "
        f"its entropy), a decoder query to {tokens[1]:.1f}.",
        f"Distance: attention of {token} is {distance[0]:.0%} of the image diagonal away on average, of a "
        f"query {distance[1]:.0%} from the centre of its box.",
        f"In the box: tokens inside a detected box keep {box[0]:.0%} of their attention inside it, queries "
        f"{box[1]:.0%}; uniform attention would have {area[1]:.0%} there.",
        f"Agreement of heads, 0 to 1: {agreement[0]:.2f} in the {stack}, {agreement[1]:.2f} in the decoder.",
    ]


def write_measurements_csv(path: str | Path, measurements: Sequence[Measurement]) -> None:
    """Write a heading and a line for each measurement; a cell without a meaning is empty."""
    rows = [m.to_row() for m in measurements]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writerow({column: safe_csv_cell(column) for column in columns})
        writer.writerows({key: safe_csv_cell(value) for key, value in row.items()} for row in rows)


def write_measurements_json(path: str | Path, measurements: Sequence[Measurement]) -> None:
    """Write `{"summary": [...], "measurements": [...]}`."""
    tree = {
        "summary": report_attention_differences(measurements),
        "measurements": [m.to_row() for m in measurements],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
