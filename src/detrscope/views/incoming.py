"""Who looks at a place: columns of attention, where the other views show rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detrscope.core.trace_data import Kind, TraceData
from detrscope.lens.incoming_attention import incoming_from_queries, incoming_from_tokens
from detrscope.views.canvas import PixelFigure, Scale, text_size
from detrscope.views.canvas.figure import MARGIN
from detrscope.views.canvas.text import TEXT
from detrscope.views.captions import caption, heads, model, over, short
from detrscope.views.grid import GAP, TITLE_LINE
from detrscope.views.options import (
    DEFAULT_OPTIONS,
    NotInTrace,
    ViewOptions,
    centre,
    predictions,
    shown_queries,
    site_of,
)
from detrscope.views.viewport import Viewport, corner_text, mark, outline, overlay

SIDE = 400
LISTED, OUTLINED = 12, 5  # queries with a bar, and with a box
LEAST = 1e-3  # of the greatest weight: a query with less does not look there
BARS, NUMBERS = 200, 60  # pixels, of the longest bar and its number
TALLEST = 40  # pixels, of a bar with the room around it


def draw_incoming(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """Queries of the decoder that look at a place most, and the places of the encoder that do.

    Raises:
        NotInTrace: neither was recorded.
        UserError: nothing was found, and no point chosen.
    """
    point = choice.points[0] if choice.points else centre(shown_queries(trace, choice)[0].box_xyxy, trace)
    decoder, encoder = (_layer(trace, kind, choice) for kind in ("decoder.cross", "encoder.self"))
    if decoder is None and encoder is None:
        site_of(trace, "decoder.cross", choice)  # says why
    frame = Viewport.of(trace, choice)
    size = frame.size(SIDE)
    panels = [_Queries(trace, choice, point, *decoder)] if decoder else []
    width = MARGIN + sum(one.width(size) + GAP for one in panels) + (size[0] + GAP if encoder else 0)
    parts = [one.about for one in panels]
    attention = None
    if encoder:
        attention = incoming_from_tokens(
            trace, point, encoder[0], choice.head, choice.merge, choice.from_level, choice.level
        )
        parts.append(f"right: {attention.caption}, colours from 0 to its peak")
    parts.append("these are columns: rows are normalised, a column need not sum to 1")
    at = f"({point[0]:.0f}, {point[1]:.0f})"
    sheet = PixelFigure(
        width - GAP + MARGIN,
        TITLE_LINE + size[1],
        f"Who looks at {at}",
        caption(model(trace), *parts),
    )
    x: float = MARGIN
    for one in panels:
        x = one.draw(sheet, frame, size, x)
    if attention is not None:
        sheet.text(f"tokens of the encoder that look at {at}", x, 0)
        panel = frame.panel(sheet, (x, TITLE_LINE), size, grey=True)
        corner_text(panel, short(overlay(panel, attention)))
        mark(panel, point)
    return sheet


class _Queries:
    """A picture with the boxes of the queries that look most, and a bar for each."""

    def __init__(
        self, trace: TraceData, choice: ViewOptions, point: tuple[float, float], layer: int, site: str
    ) -> None:
        self.point = point
        weights = incoming_from_queries(trace, point, layer, choice.head, choice.merge, choice.level).numpy()
        order = np.argsort(-weights, kind="stable")
        order = order[weights[order] >= LEAST * weights.max()][:LISTED]
        self.weights = weights[order]
        self.shown = predictions(trace, order.tolist())
        which = (
            "the token" if choice.level is not None or len(trace.levels) == 1 else "the tokens of all levels"
        )
        self.about = (
            f"left: cross-attention at {site}, {heads(trace, site, choice)}, how much each of {len(weights)} queries "
            f"looks at {which} there ({weights.sum():.3g} in all), a row is a {over(trace, site, choice)}; those "
            f"with at least {LEAST:.1%} of the greatest, boxes of the first {OUTLINED}"
        )

        self.names = [f"{one.title} ({one.says})" for one in self.shown]
        self.beside = GAP + max(text_size(name, TEXT)[0] for name in self.names)

    def width(self, size: tuple[int, int]) -> int:
        return size[0] + GAP + self.beside + BARS + NUMBERS

    def draw(self, sheet: PixelFigure, frame: Viewport, size: tuple[int, int], x: float) -> float:
        """Returns where the next thing may be."""
        sheet.text("queries that look there", x, 0)
        panel = frame.panel(sheet, (x, TITLE_LINE), size, grey=True)
        scale = Scale.amounts(self.weights)
        colours = [scale.ink(weight) for weight in self.weights]
        first = [replace(one, colour=c) for one, c in zip(self.shown, colours, strict=True)][:OUTLINED]
        outline(panel, first, [f"#{one.query}" for one in first])
        mark(panel, self.point)
        x += size[0] + GAP + self.beside
        sheet.text("weight", x, 0)
        chart = sheet.chart(x, TITLE_LINE, BARS, min(size[1], TALLEST * len(self.names)))
        chart.bars(self.names, self.weights.tolist(), colours)
        return x + BARS + NUMBERS + GAP


def _layer(trace: TraceData, kind: Kind, choice: ViewOptions) -> tuple[int, str] | None:
    """Number and site, or nothing where this trace has none."""
    try:
        return site_of(trace, kind, choice)
    except NotInTrace:
        return None
