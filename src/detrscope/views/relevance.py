"""Three explanations of a prediction: attention of one layer, rollout, gradient-weighted relevance."""

from __future__ import annotations

from dataclasses import dataclass, field

from detrscope.core.attention_map import AttentionMap
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import (
    OWN_PEAK,
    caption,
    caption_heads,
    caption_model_and_source,
    caption_normalisation,
)
from detrscope.lens.maps import row_maps
from detrscope.lens.relevance import relevance
from detrscope.lens.rollout import rollout
from detrscope.views.canvas import PixelFigure
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ViewOptions
from detrscope.views.selection import QueryPrediction, select_recorded_site, shown_queries
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Viewport, draw_boxes, draw_map

SIDE = 300


@dataclass(frozen=True)
class ExplainedQuery:
    """A prediction with the map of each method."""

    query: QueryPrediction
    maps: dict[str, AttentionMap]


@dataclass(frozen=True)
class RelevanceData(ViewData):
    """Explained predictions."""

    queries: list[ExplainedQuery]
    viewport: Viewport = field(metadata=HIDDEN)


def relevance_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> RelevanceData:
    """Compute attention and rollout of each query, and relevance where the trace has its gradients.

    Raises:
        NotInTrace: a site was not recorded.
        UserError: no detections.
    """
    _, site = select_recorded_site(trace, "decoder.cross", options)
    selection = options.selection(site)
    with_gradients = {gradient.query for gradient in trace.gradients}
    queries = []
    for prediction in relevance_queries(trace, options):
        maps = {
            "attention": row_maps(trace, options.selection(site, (prediction.query,)))[0],
            "rollout": rollout(trace, prediction.query),
        }
        if prediction.query in with_gradients:
            maps["relevance"] = relevance(trace, prediction.query)
        queries.append(ExplainedQuery(prediction, maps))
    missing = ", ".join(
        str(prediction.query.query) for prediction in queries if "relevance" not in prediction.maps
    )
    return RelevanceData(
        heading="Attention, rollout and relevance of predictions",
        caption=caption(
            caption_model_and_source(trace),
            f"attention: cross-attention at {site}, {caption_heads(trace, selection)},"
            f" {caption_normalisation(trace, selection)}",
            "rollout: all layers, half of each the residual (arXiv:2005.00928, section 3)",
            "relevance for the class named: all layers, weighted by gradients (arXiv:2103.15679, equations 5 to 10)"
            if with_gradients
            else "",
            f"relevance needs the gradients of the query: trace with explain=[{missing}]" if missing else "",
            OWN_PEAK,
        ),
        queries=queries,
        viewport=Viewport.of(trace, options),
    )


def draw_relevance(data: RelevanceData) -> PixelFigure:
    """Draw a row for each query: the image with its box, then the map of each method."""
    columns = 1 + max(len(explained.maps) for explained in data.queries)
    grid = PanelGrid(panel_size(data.viewport, columns, SIDE), columns, len(data.queries), lines=2)
    figure = grid.figure(data.heading, data.caption)
    for row, explained in enumerate(data.queries):
        draw_boxes(
            grid.panel(figure, data.viewport, row, 0, explained.query.title, explained.query.label),
            [explained.query],
        )
        for column, (name, attention) in enumerate(explained.maps.items(), start=1):
            total = f"sums to {attention.mass:.3g}"
            panel = grid.panel(figure, data.viewport, row, column, name, total, grey=True)
            draw_map(panel, attention)
            draw_boxes(panel, [explained.query])
    return figure


def relevance_queries(trace: TraceData, options: ViewOptions) -> list[QueryPrediction]:
    """Return the chosen queries, else that of the best detection.

    Raises:
        NoDetections: no query was chosen and none reaches the threshold.
    """
    return shown_queries(trace, options)[: len(options.queries) or 1]
