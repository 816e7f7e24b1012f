"""Three answers to what a prediction rests on: attention of one layer, rollout, gradient-weighted relevance."""

from __future__ import annotations

from collections.abc import Sequence

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.lens.relevance import relevance
from detrscope.lens.rollout import rollout
from detrscope.views.canvas import PixelFigure
from detrscope.views.captions import OWN_PEAK, caption, heads, model, over, short
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ShownQuery, ViewOptions, maps_of, shown_queries, site_of
from detrscope.views.viewport import Viewport, corner_text, outline, overlay

SIDE = 300
MISSING = "relevance needs the gradients of the query: trace with explain=[{}]"


def draw_relevance(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """A row for each query: the picture with its box, where it looked last, rollout, and relevance for its class.

    Relevance is there where the trace has the gradients of the query.

    Raises:
        NotInTrace: a site was not recorded.
        UserError: nothing was found.
    """
    shown = rested_on(trace, choice)
    _, site = site_of(trace, "decoder.cross", choice)
    explained = {gradient.query for gradient in trace.gradients}
    missing = [one.query for one in shown if one.query not in explained]
    rows = [_answers(trace, site, one, choice, one.query in explained) for one in shown]
    columns = 1 + max(len(row) for row in rows)
    frame = Viewport.of(trace, choice)
    tiles = PanelGrid(panel_size(frame, columns, SIDE), columns, len(rows), lines=2)
    about = caption(
        model(trace),
        f"attention: cross-attention at {site}, {heads(trace, site, choice)}, {over(trace, site, choice)}",
        "rollout: all layers, half of each the residual (arXiv:2005.00928, section 3)",
        "relevance for the class named: all layers, weighted by gradients (arXiv:2103.15679, equations 5 to 10)"
        if explained
        else "",
        MISSING.format(", ".join(map(str, missing))) if missing else "",
        OWN_PEAK + ", given in its corner",
    )
    sheet = tiles.sheet("What predictions rest on", about)
    for row, (one, answers) in enumerate(zip(shown, rows, strict=True)):
        tiles.title(sheet, row, 0, one.title, one.says)
        outline(frame.panel(sheet, tiles.place(row, 0), tiles.size), [one])
        for column, (name, answer) in enumerate(answers, start=1):
            tiles.title(sheet, row, column, name, f"sums to {answer.mass:.3g}")
            panel = frame.panel(sheet, tiles.place(row, column), tiles.size, grey=True)
            corner_text(panel, short(overlay(panel, answer)))
            outline(panel, [one])
    return sheet


def rested_on(trace: TraceData, choice: ViewOptions) -> Sequence[ShownQuery]:
    """The chosen queries, else that of the best detection.

    Raises:
        NothingFound: no query was chosen and none scores high enough.
    """
    return shown_queries(trace, choice)[: len(choice.queries) or 1]


def _answers(
    trace: TraceData, site: str, one: ShownQuery, choice: ViewOptions, explained: bool
) -> list[tuple[str, AttentionMap]]:
    answers = [
        ("attention", maps_of(trace, site, [one.query], choice)[0]),
        ("rollout", rollout(trace, one.query)),
    ]
    if explained:
        answers.append(("relevance", relevance(trace, one.query)))
    return answers
