"""What was found, with the numbers of the queries that found it."""

from __future__ import annotations

from detrscope.core.trace_data import TraceData
from detrscope.views.canvas import WHITE, PixelFigure
from detrscope.views.captions import caption, model
from detrscope.views.grid import PanelGrid
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions, shown_queries
from detrscope.views.viewport import Viewport, outline

SIDE = 760


def draw_view_detections(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """Boxes with class, score and query on the picture; dashed, those of the truth where it is known.

    Raises:
        UserError: nothing was found.
    """
    shown = shown_queries(trace, choice)
    frame = Viewport.of(trace)
    truth = trace.targets_xyxy
    tiles = PanelGrid(frame.size(SIDE), 1, lines=0)
    which = "chosen by number" if choice.queries else f"with a score of {choice.threshold:g} or more"
    scores = (
        "softmax over classes and no object"
        if trace.card.scoring == "softmax"
        else "a sigmoid for each class"
    )
    about = caption(
        model(trace),
        f"{len(shown)} of {trace.queries} queries, {which}, in the last of {len(trace.logits)} layers that predict",
        f"scores: {scores}",
        "number: of the query",
        "" if truth is None else f"white, dashed: the {len(truth)} of the truth",
    )
    sheet = tiles.sheet("What was found", about)
    panel = frame.panel(sheet, tiles.place(0, 0), tiles.size)
    if truth is not None:
        for box in truth.tolist():
            panel.box(box, WHITE, dashed=True)
    outline(panel, shown, [f"{one.says}  #{one.query}" for one in shown], size=13)
    return sheet
