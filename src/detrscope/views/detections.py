"""Detections with the numbers of their queries, and the ground truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from detrscope.core.mask_pixels import masks_of_queries
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import caption, caption_model_and_source
from detrscope.views.canvas import PixelFigure, with_masks
from detrscope.views.grid import PanelGrid
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import QueryPrediction, shown_queries
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_ground_truth

SIDE = 760


@dataclass(frozen=True)
class DetectionData(ViewData):
    """Predictions, and annotated boxes [M, 4] in pixels of the original."""

    queries: list[QueryPrediction]
    ground_truth_xyxy: Tensor | None
    viewport: Viewport = field(metadata=HIDDEN)


def detections_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> DetectionData:
    """Collect the predictions of the shown queries.

    Raises:
        UserError: no detections.
    """
    queries = shown_queries(trace, options)
    boxes = trace.targets_xyxy
    chosen = "chosen by number" if options.queries else f"with a score of {options.threshold:g} or more"
    softmax = trace.card.scoring == "softmax"
    return DetectionData(
        heading="Detections",
        caption=caption(
            caption_model_and_source(trace),
            f"{len(queries)} of {trace.queries} queries, {chosen}, in the last of {len(trace.logits)} layers that "
            "predict",
            f"scores: {'softmax over classes and no object' if softmax else 'a sigmoid for each class'}",
            "number: of the query",
            "tinted: their masks" if _has_masks(trace) else "",
            "" if boxes is None else f"white, dashed: the {len(boxes)} boxes of the ground truth",
        ),
        queries=queries,
        ground_truth_xyxy=boxes,
        viewport=_with_masks(Viewport.of(trace), trace, queries),
    )


def _with_masks(viewport: Viewport, trace: TraceData, queries: Sequence[QueryPrediction]) -> Viewport:
    """Return the viewport with the masks of some queries painted on its image, where the model predicts masks."""
    if not _has_masks(trace):
        return viewport
    assert trace.masks is not None
    height, width = viewport.image.shape[:2]
    masks = masks_of_queries(trace.masks, [prediction.query for prediction in queries], height, width)
    line = max(1, round(max(height, width) / 600))
    painted = with_masks(viewport.image, masks.numpy(), [prediction.colour for prediction in queries], line)
    return Viewport(painted, viewport.extent, viewport.window, viewport.smooth)


def _has_masks(trace: TraceData) -> bool:
    """Return whether there are masks that lie on the image of the viewport: the whole original, or its part."""
    g = trace.geometry
    return trace.masks is not None and (trace.original is None or g.crop_xyxy == (0, 0, g.width, g.height))


def draw_detections(data: DetectionData) -> PixelFigure:
    """Draw boxes with class, score and query on the image; the ground truth dashed."""
    grid = PanelGrid(data.viewport.size(SIDE), 1, lines=0)
    figure = grid.figure(data.heading, data.caption)
    panel = grid.panel(figure, data.viewport, 0, 0)
    draw_ground_truth(panel, data.ground_truth_xyxy)
    draw_boxes(
        panel,
        data.queries,
        [f"{prediction.label}  #{prediction.query}" for prediction in data.queries],
        size=13,
    )
    return figure
