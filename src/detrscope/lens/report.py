"""How does encoder attention differ from decoder attention? Answered with the measures of a trace."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from detrscope.core.files import atomic_write
from detrscope.core.safe_text import csv_cell
from detrscope.lens.measure import Measure


def by_layer(measures: Sequence[Measure]) -> list[Measure]:
    """The line of each layer: the mean over heads and rows."""
    return [m for m in measures if m.head is None and m.query is None]


def on_parts(measures: Sequence[Measure]) -> Measure | None:
    """The line of the last decoder layer, where masks were given."""
    last = [m for m in by_layer(measures) if m.kind == "decoder.cross"][-1:]
    return last[0] if last and last[0].parts else None


def on_what(measures: Sequence[Measure]) -> list[str]:
    """What the queries look at in the last decoder layer, as a sentence; nothing where no masks were given."""
    last = on_parts(measures)
    if last is None:
        return []
    ranked = sorted(last.parts.items(), key=lambda part: -part[1])
    shares = ", ".join(f"{name} {mass:.0%} (area {last.part_areas[name]:.0%})" for name, mass in ranked)
    return [f"On what, in the last decoder layer: {shares}."]


def in_words(measures: Sequence[Measure]) -> list[str]:
    """How encoder and decoder attention differ, a sentence for each measure, from the means over layers.

    Nothing where one of the two was not measured.
    """
    layers = by_layer(measures)
    encoder = [m for m in layers if m.kind == "encoder.self"]
    decoder = [m for m in layers if m.kind == "decoder.cross"]
    if not encoder or not decoder:
        return []

    def both(of: Callable[[Measure], float | None]) -> tuple[float, float]:
        means = [[v for m in stack if (v := of(m)) is not None] for stack in (encoder, decoder)]
        return (fmean(means[0]) if means[0] else float("nan")), (
            fmean(means[1]) if means[1] else float("nan")
        )

    near, far = both(lambda m: m.effective), both(lambda m: m.distance)
    box, area, alike = both(lambda m: m.in_box), both(lambda m: m.box_area), both(lambda m: m.agreement)
    return [
        f"How concentrated: an encoder token looks at {near[0]:.1f} of {encoder[0].keys} tokens on average (exp of "
        f"its entropy), a query of the decoder at {near[1]:.1f}.",
        f"How global: what a token looks at is {far[0]:.0%} of the image's diagonal away on average, what a query "
        f"looks at is {far[1]:.0%} away from the middle of its box.",
        f"How much in the box: tokens inside a found box keep {box[0]:.0%} of their attention inside of it, queries "
        f"{box[1]:.0%}; attention alike everywhere would have {area[1]:.0%} there.",
        f"How alike the heads are, 0 to 1: {alike[0]:.2f} in the encoder, {alike[1]:.2f} in the decoder.",
    ]


def write_csv(path: str | Path, measures: Sequence[Measure]) -> None:
    """A heading and a line for each measure; empty where there is no meaning."""
    rows = [m.to_row() for m in measures]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writerow({column: csv_cell(column) for column in columns})
        writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)


def write_json(path: str | Path, measures: Sequence[Measure]) -> None:
    """`{"in_words": [...], "measures": [...]}`."""
    tree = {"in_words": in_words(measures), "measures": [m.to_row() for m in measures]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
