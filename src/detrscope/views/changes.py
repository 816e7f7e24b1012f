"""Detections before and after an intervention: what vanished, appeared, moved, changed class or score."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import caption, caption_model_and_source
from detrscope.lens.changes import Change, ChangeKind, DetectedBox, detection_changes, summarise_changes
from detrscope.views.canvas import Colour, PixelFigure, drawable_class_label
from detrscope.views.compare import check_same_image
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions
from detrscope.views.selection import QueryPrediction
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes

SIDE = 520
COLOURS: dict[ChangeKind, Colour] = {
    "vanished": (213, 94, 0),
    "appeared": (0, 158, 115),
    "class": (204, 121, 167),
    "moved": (0, 114, 178),
    "score": (86, 180, 233),
    "same": (150, 150, 150),
}
WORDS: dict[ChangeKind, str] = {
    kind: f"{kind}: " for kind in ("vanished", "appeared", "class", "moved", "score")
}


@dataclass(frozen=True)
class Changes(ViewData):
    """Paired detections of two traces of one image."""

    summary: str
    changes: list[Change]
    viewport: Viewport = field(metadata=HIDDEN)


def changes_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> Changes:
    """Pair the detections of `against` (before) with those of the trace (after).

    Raises:
        NotInTrace: there is nothing to compare with.
        UserError: the images differ.
    """
    before = options.against
    if before is None:
        raise NotInTrace(
            "nothing to compare with; give edits, another trace of the image, or a model (against)"
        )
    check_same_image(trace, before)
    changes = detection_changes(before, trace, options.threshold)
    return Changes(
        heading="Before and after",
        caption=caption(
            f"before: {caption_model_and_source(before)}",
            f"after: {caption_model_and_source(trace)}",
            f"detections with a score of {options.threshold:g} or more: {summarise_changes(changes)}",
            "dashed: the box on the other side; number: of the query",
        ),
        summary=summarise_changes(changes),
        changes=changes,
        viewport=Viewport.of(trace, options),
    )


def draw_changes(data: Changes) -> PixelFigure:
    """Draw the detections before and after side by side, each in the colour of what became of it."""
    grid = PanelGrid(panel_size(data.viewport, 2, SIDE), 2, lines=1)
    figure = grid.figure(data.heading, data.caption)
    for column, (name, of, other) in enumerate((("before", _before, _after), ("after", _after, _before))):
        shown = [(change, box) for change in data.changes if (box := of(change)) is not None]
        panel = grid.panel(
            figure,
            data.viewport,
            0,
            column,
            f"{name}: {len(shown)} detection{'' if len(shown) == 1 else 's'}",
        )
        for change in data.changes:
            ghost = other(change)
            if ghost is not None and change.kind in ("vanished", "appeared", "moved"):
                panel.box(ghost.box_xyxy, COLOURS[change.kind], dashed=True)
        predictions = [_prediction(change, box) for change, box in shown]
        words = [WORDS.get(change.kind, "") for change, _ in shown]
        texts = [f"{word}{p.label}  #{p.query}" for word, p in zip(words, predictions, strict=True)]
        draw_boxes(panel, predictions, texts)
    return figure


def _before(change: Change) -> DetectedBox | None:
    return change.before


def _after(change: Change) -> DetectedBox | None:
    return change.after


def _prediction(change: Change, box: DetectedBox) -> QueryPrediction:
    return QueryPrediction(
        box.query,
        drawable_class_label(box.name, box.category_id),
        box.score,
        box.box_xyxy,
        COLOURS[change.kind],
    )
