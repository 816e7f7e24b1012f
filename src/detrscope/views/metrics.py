"""How attention changes from layer to layer, and how the encoder's differs from the decoder's, in numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from detrscope.core.trace_data import Kind, TraceData
from detrscope.lens.measure import Measure, measure
from detrscope.lens.report import in_words, on_parts, on_what
from detrscope.views.canvas import PALETTE, Chart, PixelFigure, text_size
from detrscope.views.canvas.text import NAME
from detrscope.views.captions import caption, model, numbers
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions, shown_queries

WIDTH, HEIGHT = 1240, 240  # pixels, of the sheet and of a chart
LEFT, BETWEEN = 70, 100  # pixels, for the numbers beside charts
BAR = 24  # pixels, with the room around it
BEYOND = 0.1  # of a layer
ROOM = 64  # pixels, for names above and below charts
FEWEST, WORTH = 64, 2_000_000  # tokens of the encoder at least, and pairs of tokens that are worth the time
NAMES: dict[Kind, str] = {
    "encoder.self": "encoder: tokens look at tokens",
    "decoder.cross": "decoder: queries look at tokens",
    "decoder.self": "decoder: queries look at queries",
}
Value = Callable[[Measure], float | None]


def draw_metrics(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """Spread, distance, mass in the box and agreement of heads over the layers; a dot for each head, lines for means.

    Raises:
        NotInTrace: no attention was recorded.
        UserError: nothing was found.
    """
    if not trace.records:
        raise NotInTrace("no attention was recorded")
    queries = [one.query for one in shown_queries(trace, choice)]
    measures = measure(trace, queries, threshold=choice.threshold, tokens=max(FEWEST, WORTH // trace.tokens))
    lines = [m for m in measures if m.query is None]
    tokens = max((m.rows for m in lines if m.kind == "encoder.self"), default=0)
    about = caption(
        model(trace),
        f"over {numbers(queries)}" + (f" and {tokens} tokens of the encoder" if tokens else ""),
        "a dot for each head, a line through their mean",
        "in the box: of the query's last prediction, or the found box that a token lies in; dotted: attention alike on "
        "all tokens",
    )
    about += " " + " ".join([*in_words(measures), *on_what(measures)])
    seen = on_parts(measures)
    bars = ROOM + BAR * len(seen.parts) if seen else 0
    sheet = PixelFigure(WIDTH, 2 * (HEIGHT + ROOM) + 10 + bars, "Attention over the layers", about)
    if seen:
        _on_parts(sheet, 2 * (HEIGHT + ROOM) + 10, seen)
    sheet.numbers = measures
    across = (WIDTH - LEFT - BETWEEN - 30) / 2
    charts = [
        sheet.chart(LEFT + i % 2 * (across + BETWEEN), 22 + i // 2 * (HEIGHT + ROOM + 10), across, HEIGHT)
        for i in range(4)
    ]
    _lines(charts[0], lines, lambda m: m.entropy / math.log(m.keys) if m.keys > 1 else 0.0)
    charts[0].names("spread: entropy, 0 one token, 1 alike on all", y="of log(tokens)")
    _lines(charts[1], lines, lambda m: m.distance)
    charts[1].names("distance of what is looked at", y="of the diagonal")
    _lines(charts[2], lines, lambda m: m.in_box)
    _areas(charts[2], lines)
    charts[2].names("mass inside the box", x="layer", y="of 1")
    _lines(charts[3], lines, lambda m: m.agreement)
    charts[3].names("agreement between heads, 1 all alike", x="layer", y="0 to 1")
    for chart in charts:
        chart.limits(y=(0, None))
        chart.whole_steps()
    charts[0].limits(y=(0, 1.05))
    charts[3].limits(y=(0, 1.05))
    charts[1].legend("best")
    return sheet


def _on_parts(sheet: PixelFigure, top: float, seen: Measure) -> None:
    """A bar for each part, most of all for its area first."""
    ratios = {name: mass / max(seen.part_areas[name], 1e-9) for name, mass in seen.parts.items()}
    names = sorted(ratios, key=lambda name: -ratios[name])
    longest = max(text_size(name, NAME)[0] for name in names)
    sheet.text(
        f"attention of queries in layer {seen.layer} on parts, for their area (1: as if spread evenly)",
        LEFT,
        top + 24,
    )
    chart = sheet.chart(LEFT + longest, top + ROOM - 10, WIDTH / 2 - LEFT, BAR * len(names))
    chart.bars(names, [ratios[name] for name in names], [PALETTE[1]] * len(names))


def _lines(chart: Chart, lines: Sequence[Measure], of: Value) -> None:
    for index, (kind, name) in enumerate(NAMES.items()):
        mine = [(m, v) for m in lines if m.kind == kind and (v := of(m)) is not None]
        heads = [(m.layer, v) for m, v in mine if m.head is not None]
        means = [(m.layer, v) for m, v in mine if m.head is None]
        if heads:
            chart.dots([x for x, _ in heads], [y for _, y in heads], index)
        if means:
            chart.line([x for x, _ in means], [y for _, y in means], index, label=name, dots=3)


def _areas(chart: Chart, lines: Sequence[Measure]) -> None:
    """What attention alike on all tokens would have in the box."""
    for index, kind in enumerate(NAMES):
        areas: list[tuple[float, float]] = [
            (m.layer, m.box_area)
            for m in lines
            if m.kind == kind and m.head is None and m.box_area is not None
        ]
        if areas:  # drawn a little beyond the first and the last layer, so that one layer has a line too
            (first, low), (last, high) = areas[0], areas[-1]
            areas = [(first - BEYOND, low), *areas, (last + BEYOND, high)]
            chart.line([x for x, _ in areas], [y for _, y in areas], index, dotted=True)
