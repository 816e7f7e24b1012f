"""Attention metrics over the layers, and how the encoder's differ from the decoder's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detrscope.core.trace_data import TOKEN_KINDS, Kind, TraceData
from detrscope.lens.captions import caption, caption_model_and_source, caption_queries
from detrscope.lens.measure import Measurement, measure
from detrscope.lens.report import (
    measured_on_parts,
    report_attention_differences,
    report_attention_on_parts,
)
from detrscope.views.canvas import PALETTE, Chart, PixelFigure, text_size
from detrscope.views.canvas.text import TITLE_SIZE
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions
from detrscope.views.selection import shown_queries
from detrscope.views.view_data import ViewData

WIDTH, HEIGHT = 1240, 240  # pixels, of the figure and of a chart
LEFT, BETWEEN = 70, 100  # pixels, for the numbers beside charts
BAR_HEIGHT = 24  # pixels, with the room around it
OVERHANG = 0.1  # layers
ROOM = 64  # pixels, for titles above and below charts
MIN_TOKENS, MAX_PAIRS = 64, 2_000_000  # encoder tokens at least; pairs of tokens that are worth the time
NAMES: dict[Kind, str] = {
    "backbone.self": "backbone: tokens to tokens",
    "encoder.self": "encoder: tokens to tokens",
    "decoder.cross": "decoder: queries to tokens",
    "decoder.self": "decoder: queries to queries",
}
Value = Callable[[Measurement], float | None]


@dataclass(frozen=True)
class MetricsData(ViewData):
    """Measurements of every layer, head and query shown."""

    measurements: list[Measurement]


def metrics_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> MetricsData:
    """Measure the attention of every layer.

    Raises:
        NotInTrace: no attention was recorded.
        UserError: no detections.
    """
    if not trace.records:
        raise NotInTrace("no attention was recorded")
    queries = [prediction.query for prediction in shown_queries(trace, options)]
    tokens = max(MIN_TOKENS, MAX_PAIRS // trace.tokens)
    measurements = measure(trace, queries, threshold=options.threshold, tokens=tokens)
    measured = max((m.rows for m in measurements if m.kind in TOKEN_KINDS), default=0)
    about = caption(
        caption_model_and_source(trace),
        f"over {caption_queries(queries)}" + (f" and {measured} image tokens" if measured else ""),
        "a dot for each head, a line through their mean",
        "in the box: of the query's last prediction, or of the detection that a token lies in; dotted: uniform "
        "attention",
    )
    sentences = [*report_attention_differences(measurements), *report_attention_on_parts(measurements)]
    return MetricsData("Attention over the layers", " ".join([about, *sentences]), measurements)


def draw_metrics(data: MetricsData) -> PixelFigure:
    """Draw spread, distance, mass in the box and agreement of heads over the layers, and mass on parts."""
    lines = [m for m in data.measurements if m.query is None]
    parts = measured_on_parts(data.measurements)
    charts_height = 2 * (HEIGHT + ROOM) + 10
    bars = ROOM + BAR_HEIGHT * len(parts.parts) if parts else 0
    figure = PixelFigure(WIDTH, charts_height + bars, data.heading, data.caption)
    if parts:
        _draw_parts(figure, charts_height, parts)
    across = (WIDTH - LEFT - BETWEEN - 30) / 2
    spread, distance, in_box, agreement = charts = [
        figure.chart(LEFT + i % 2 * (across + BETWEEN), 22 + i // 2 * (HEIGHT + ROOM + 10), across, HEIGHT)
        for i in range(4)
    ]
    _draw_lines(spread, lines, lambda m: m.entropy / math.log(m.keys) if m.keys > 1 else 0.0)
    spread.titles("spread: entropy, 0 one token, 1 uniform", y="of log(tokens)")
    _draw_lines(distance, lines, lambda m: m.distance)
    distance.titles("mean attention distance", y="of the diagonal")
    _draw_lines(in_box, lines, lambda m: m.in_box)
    _draw_uniform(in_box, lines)
    in_box.titles("mass inside the box", x="layer", y="of 1")
    _draw_lines(agreement, lines, lambda m: m.agreement)
    agreement.titles("agreement between heads (1: identical)", x="layer", y="0 to 1")
    for chart in charts:
        chart.limits(y=(0, None))
        chart.integer_ticks()
    spread.limits(y=(0, 1.05))
    agreement.limits(y=(0, 1.05))
    distance.legend("best")
    return figure


def _draw_parts(figure: PixelFigure, top: float, measured: Measurement) -> None:
    """Draw a bar for each part, the greatest ratio of mass to area first."""
    ratios = {name: mass / max(measured.part_areas[name], 1e-9) for name, mass in measured.parts.items()}
    names = sorted(ratios, key=lambda name: -ratios[name])
    longest = max(text_size(name, TITLE_SIZE)[0] for name in names)
    text = f"query attention in layer {measured.layer} on parts, relative to their area (1: uniform)"
    figure.text(text, LEFT, top + 24)
    chart = figure.chart(LEFT + longest, top + ROOM - 10, WIDTH / 2 - LEFT, BAR_HEIGHT * len(names))
    chart.bars(names, [ratios[name] for name in names], [PALETTE[1]] * len(names))


def _draw_lines(chart: Chart, lines: Sequence[Measurement], value: Value) -> None:
    for index, (kind, name) in enumerate(NAMES.items()):
        points = [(m, v) for m in lines if m.kind == kind and (v := value(m)) is not None]
        heads = [(m.layer, v) for m, v in points if m.head is not None]
        means = [(m.layer, v) for m, v in points if m.head is None]
        if heads:
            chart.dots([x for x, _ in heads], [y for _, y in heads], index)
        if means:
            chart.line([x for x, _ in means], [y for _, y in means], index, label=name, dots=3)


def _draw_uniform(chart: Chart, lines: Sequence[Measurement]) -> None:
    """Draw what uniform attention would have in the box."""
    for index, kind in enumerate(NAMES):
        areas: list[tuple[float, float]] = [
            (m.layer, m.box_area)
            for m in lines
            if m.kind == kind and m.head is None and m.box_area is not None
        ]
        if areas:  # drawn a little beyond the first and the last layer, so that one layer has a line too
            (first, low), (last, high) = areas[0], areas[-1]
            areas = [(first - OVERHANG, low), *areas, (last + OVERHANG, high)]
            chart.line([x for x, _ in areas], [y for _, y in areas], index, dotted=True)
