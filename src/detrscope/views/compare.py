"""Two traces of one image side by side, and the difference of their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d
from torchvision.ops import box_iou

from detrscope.core.attention_map import AttentionMap
from detrscope.core.errors import UserError
from detrscope.core.trace_data import TraceData
from detrscope.lens.captions import (
    caption,
    caption_heads,
    caption_model,
    caption_model_and_source,
    caption_normalisation,
    caption_weight_sums,
)
from detrscope.lens.maps import row_maps
from detrscope.views.canvas import PixelFigure, Scale
from detrscope.views.grid import PanelGrid, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, NotInTrace, ViewOptions
from detrscope.views.selection import (
    QueryPrediction,
    detected_queries,
    select_recorded_site,
    shown_predictions,
    shown_queries,
)
from detrscope.views.view_data import HIDDEN, ViewData
from detrscope.views.viewport import Extent, Viewport, corner_text, draw_boxes, short_number, viewport_cells

MAX_QUERIES = 4
SIDE = 320
FINE_GRID = 96  # cells along the longer side where the tokens of two models do not coincide
COARSE_GRID, MAX_DIFFERENCE = 24, 0.06  # cells a side in which two images are compared; of a range of 1


@dataclass(frozen=True)
class ComparedTrace:
    """One of the two traces: all its detections, the compared queries and their maps."""

    name: str
    detections: list[QueryPrediction]
    queries: list[QueryPrediction]
    maps: list[AttentionMap]
    viewport: Viewport = field(metadata=HIDDEN)


@dataclass(frozen=True)
class Comparison(ViewData):
    """Two traces, and the maps [H, W] of each compared query on cells that coincide."""

    traces: list[ComparedTrace]
    first: list[np.ndarray]
    second: list[np.ndarray]
    extents: list[Extent]

    def differences(self) -> list[np.ndarray]:
        """Return the second map less the first of each query."""
        return [second - first for first, second in zip(self.first, self.second, strict=True)]


def comparison_data(trace: TraceData, options: ViewOptions = DEFAULT_OPTIONS) -> Comparison:
    """Compute the cross-attention of the same or of matching queries in both traces.

    Raises:
        NotInTrace: there is nothing to compare with.
        UserError: the images differ, or there are no detections.
    """
    other = options.against
    if other is None:
        raise NotInTrace("nothing to compare with; give another trace of the image, or a model (against)")
    check_same_image(trace, other)
    detections = shown_queries(trace, options)
    queries = detections[:MAX_QUERIES]
    same = _share_query_numbers(trace, other)
    partners = shown_predictions(
        other, [q.query for q in queries] if same else _best_overlaps(other, queries)
    )
    others = shown_predictions(other, detected_queries(other, options.threshold))
    traces, captions = [], []
    for source, shown, compared, order in (
        (trace, detections, queries, "first"),
        (other, others, partners, "second"),
    ):
        _, site = select_recorded_site(source, "decoder.cross", options)
        selection = options.selection(site, tuple(q.query for q in compared))
        maps = row_maps(source, selection)
        traces.append(
            ComparedTrace(caption_model(source), shown, compared, maps, Viewport.of(source, options))
        )
        captions.append(
            f"{order}: {caption_model_and_source(source)}, {site}, {caption_heads(source, selection)}, "
            f"{caption_normalisation(source, selection)}, {caption_weight_sums(maps)}"
        )
    pairs = [_on_one_grid(a, b) for a, b in zip(traces[0].maps, traces[1].maps, strict=True)]
    return Comparison(
        heading="Two traces of one image",
        caption=caption(
            *captions,
            "the same query in both" if same else "in the second, the query whose box overlaps most",
            "colours of both maps begin at even attention and reach the greater peak",
            "difference: orange is less, purple more",
        ),
        traces=traces,
        first=[first for first, _, _ in pairs],
        second=[second for _, second, _ in pairs],
        extents=[extent for _, _, extent in pairs],
    )


def draw_comparison(data: Comparison) -> PixelFigure:
    """Draw the detections of both; below, for each query both maps on one scale and the second less the first."""
    viewports = [compared.viewport for compared in data.traces]
    grid = PanelGrid(panel_size(viewports[0], 3, SIDE), 3, 1 + len(data.first))
    figure = grid.figure(data.heading, data.caption)
    for column, (compared, order) in enumerate(zip(data.traces, ("first", "second"), strict=True)):
        title = f"{order}: {compared.name}, {len(compared.detections)} shown"
        panel = grid.panel(figure, compared.viewport, 0, column, title)
        draw_boxes(panel, compared.detections, [f"{box.label}  #{box.query}" for box in compared.detections])
    rows = zip(data.first, data.second, data.differences(), data.extents, strict=True)
    for row, (first, second, difference, extent) in enumerate(rows):
        scale = Scale.from_even(first, second)
        for column, (compared, values) in enumerate(zip(data.traces, (first, second), strict=True)):
            query = compared.queries[row]
            title = f"{query.title} ({query.label})"
            panel = grid.panel(figure, compared.viewport, 1 + row, column, title, grey=True)
            panel.heatmap(values, scale, extent)
            draw_boxes(panel, [query])
            corner_text(panel, short_number(float(values.max())))
        panel = grid.panel(figure, viewports[0], 1 + row, 2, "second less first", grey=True)
        panel.heatmap(difference, Scale.symmetric(difference), extent)
        corner_text(
            panel, f"{short_number(float(difference.min()))} to {short_number(float(difference.max()))}"
        )
    return figure


def _on_one_grid(first: AttentionMap, second: AttentionMap) -> tuple[np.ndarray, np.ndarray, Extent]:
    """Return both maps cell by cell where their cells coincide, else as the mass in each cell of a fine grid."""
    (a, extent), (b, other) = viewport_cells(first), viewport_cells(second)
    if a.shape == b.shape and np.allclose(extent, other):
        return a, b, extent
    g = first.geometry
    return _on_fine_grid(first), _on_fine_grid(second), (0.0, 0.0, float(g.width), float(g.height))


def _on_fine_grid(attention: AttentionMap) -> np.ndarray:
    g = attention.geometry
    shrink = FINE_GRID / max(g.width, g.height)
    height, width = max(1, round(g.height * shrink)), max(1, round(g.width * shrink))
    across, down = width / g.width, height / g.height
    x0, y0, x1, y1 = g.crop_xyxy
    small = replace(g, height=height, width=width, crop_xyxy=(x0 * across, y0 * down, x1 * across, y1 * down))
    return replace(attention, geometry=small).on_image().numpy()


def _share_query_numbers(trace: TraceData, other: TraceData) -> bool:
    """Return whether a number is the same query in both traces.

    Learned queries keep theirs during training; picked ones (two-stage) only as long as everything that they are picked
    from stays.
    """
    if trace.card != other.card:
        return False
    same_encoder = trace.notes == other.notes and all(
        edit.site.startswith("decoder.") for edit in (*trace.edits, *other.edits)
    )
    return same_encoder or not (trace.picked or other.picked)


def _best_overlaps(trace: TraceData, queries: Sequence[QueryPrediction]) -> list[int]:
    """Return for each query of the first model that of the other whose box overlaps most."""
    boxes = torch.tensor([one.box_xyxy for one in queries])
    best: list[int] = box_iou(boxes, trace.boxes_xyxy()).nan_to_num().argmax(1).tolist()
    return best


def check_same_image(trace: TraceData, other: TraceData) -> None:
    """Refuse traces of different images; parts of one may have been changed, such as hidden.

    Raises:
        UserError: other sizes, or most of the pixels differ.
    """
    first, second = trace.geometry, other.geometry
    if (first.width, first.height) != (second.width, second.height):
        raise UserError(
            f"cannot compare an image of {first.width} x {first.height} pixels with one of {second.width} x "
            f"{second.height}: both traces must be of the same image"
        )
    images = [trace.original, other.original]
    if any(image is None for image in images):
        if first.crop_xyxy != second.crop_xyxy:
            return  # different crops without originals cannot be compared
        images = [trace.image, other.image]
    a, b = (adaptive_avg_pool2d(image.float(), COARSE_GRID) / 255 for image in images if image is not None)
    differing = float(((a - b).abs().mean(0) > MAX_DIFFERENCE).float().mean())
    if differing > 0.5:
        raise UserError(
            f"cannot compare traces of different images: {trace.source or 'the first'} and "
            f"{other.source or 'the second'} differ in {differing:.0%} of their area"
        )
