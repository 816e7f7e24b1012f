"""Decoder self-attention: how queries look at each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detrscope.core.trace_data import TraceData
from detrscope.lens.maps import self_attention
from detrscope.views.canvas import WHITE, PixelFigure, Scale, ink_on, shortened, text_size
from detrscope.views.canvas.figure import MARGIN, SCALE
from detrscope.views.canvas.text import NAME, TEXT
from detrscope.views.captions import caption, heads, model, short
from detrscope.views.grid import GAP, NARROWEST, TITLE_LINE
from detrscope.views.options import (
    DEFAULT_OPTIONS,
    ShownQuery,
    ViewOptions,
    centre,
    predictions,
    shown_queries,
    site_of,
)
from detrscope.views.viewport import Viewport, outline

SIDE = 420
ROWS = 10  # queries of the table
LINKED = 6  # queries linked to the first
CELL = 52  # pixels


def draw_query_self_attention(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """The picture with the queries that the first one looks at, and a table of how all shown ones look at each other.

    Raises:
        NotInTrace: it was not recorded.
        UserError: nothing was found.
    """
    shown = shown_queries(trace, choice)[:ROWS]
    layer, site = site_of(trace, "decoder.self", choice)
    rows = np.stack([_row(trace, one.query, layer, choice) for one in shown])  # [n, Q]
    frame = Viewport.of(trace)
    size = frame.size(SIDE)
    left = MARGIN + size[0] + 3 * GAP + max(text_size(one.title, NAME)[0] for one in shown)
    across, down = CELL * (len(shown) + 1), CELL * len(shown)
    about = caption(
        model(trace),
        f"self-attention at {site}, {heads(trace, site, choice)}, softmax over {rows.shape[1]} queries",
        f"left: {shown[0].title} (white) and the {LINKED} others it looks at most, with their boxes of the last layer, "
        "by number and weight",
        "right: rows look at columns; beside it all queries that are not shown together, without a colour",
    )
    width = left + across + 2 * GAP + SCALE + MARGIN
    height = TITLE_LINE + max(size[1], TITLE_LINE + down)
    sheet = PixelFigure(max(width, NARROWEST), height, "How queries look at each other", about)
    _links(trace, sheet, frame, size, shown[0], rows[0])
    among = rows[:, [one.query for one in shown]]
    scale = Scale.amounts(among, label="attention weight")
    _table(sheet, (left, 2 * TITLE_LINE), shown, among, (rows.sum(1) - among.sum(1)).tolist(), scale)
    sheet.scale(left + across + 2 * GAP, 2 * TITLE_LINE, max(down, 3 * CELL), scale, Scale.colours)
    return sheet


def _row(trace: TraceData, query: int, layer: int, choice: ViewOptions) -> np.ndarray:
    """How much a query looks at each: [Q]."""
    seen = self_attention(trace, query=query, layer=layer, head=choice.head, merge=choice.merge)
    return np.asarray(seen.values)


def _links(
    trace: TraceData,
    sheet: PixelFigure,
    frame: Viewport,
    size: tuple[int, int],
    first: ShownQuery,
    row: np.ndarray,
) -> None:
    """The first query's box in white, the others' by weight."""
    queries: list[int] = np.argsort(-row, kind="stable").tolist()
    queries = [q for q in queries if q != first.query][:LINKED]
    scale = Scale.amounts(row[queries])
    others = [replace(one, colour=scale.ink(row[one.query])) for one in predictions(trace, queries)]
    sheet.text(shortened(f"{first.title} ({first.says}) looks at", NAME, size[0]), MARGIN, 0)
    panel = frame.panel(sheet, (MARGIN, TITLE_LINE), size, grey=True)
    start = np.array([centre(first.box_xyxy, trace)])
    for one in reversed(others):
        end = np.array([centre(one.box_xyxy, trace)])
        panel.lines(start, end, one.colour, 1 + 4 * float(scale.place(row[one.query])))
    outline(panel, others, [f"#{one.query}  {short(row[one.query])}" for one in others])
    panel.box(first.box_xyxy, WHITE, width=3)


def _table(
    sheet: PixelFigure,
    corner: tuple[float, float],
    shown: Sequence[ShownQuery],
    table: np.ndarray,
    others: Sequence[float],
    scale: Scale,
) -> None:
    """Numbers on their colours, queries named at the left and above; the rest of each row beside it."""
    (left, top), (rows, columns) = corner, table.shape
    panel = sheet.panel(left, top, CELL * columns, CELL * rows, (0, 0, columns, rows), smooth=False)
    panel.heat(table, scale, veil=False)
    for i, one in enumerate(shown):
        sheet.text(one.title, left - GAP, top + (i + 0.5) * CELL - NAME / 2, align="right")
    for j, name in enumerate([*(str(one.query) for one in shown), "others"]):
        sheet.text(name, left + (j + 0.5) * CELL, top - TITLE_LINE, align="center")
    for i, rest in enumerate(others):
        sheet.text(
            short(rest),
            left + (columns + 0.5) * CELL,
            top + (i + 0.5) * CELL - TEXT / 2,
            align="center",
            size=TEXT,
        )
    for (i, j), weight in np.ndenumerate(table):
        text = short(weight)
        across, down = (side / CELL for side in text_size(text, TEXT))
        panel.label(text, (j + (1 - across) / 2, i + (1 - down) / 2), ink=ink_on(scale.colour(weight)))
