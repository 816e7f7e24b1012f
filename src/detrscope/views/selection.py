"""Queries, sites, rows and maps of a trace that the options of a view select."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from detrscope.core.trace_data import Kind, TraceData
from detrscope.views.canvas import Colour, class_colours, drawable_class_label
from detrscope.views.options import NoDetections, NotInTrace, ViewOptions, counted
from detrscope.views.view_data import HIDDEN


@dataclass(frozen=True)
class QueryPrediction:
    """Best class and box of one query."""

    query: int
    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]  # pixels of the original
    colour: Colour = field(metadata=HIDDEN)

    @property
    def title(self) -> str:
        """Name of the query, such as `query 37`."""
        return f"query {self.query}"

    @property
    def label(self) -> str:
        """Class and score, such as `dog 0.98`."""
        return f"{self.name} {self.score:.2f}"


def detected_queries(trace: TraceData, threshold: float) -> list[int]:
    """Return the queries of the detections, best first."""
    return list(dict.fromkeys(trace.detections(threshold).query_ids.tolist()))


def shown_queries(trace: TraceData, options: ViewOptions) -> list[QueryPrediction]:
    """Return the chosen queries, or those of the detections, best first, with their last predictions.

    Raises:
        NoDetections: no query was chosen and none reaches the threshold.
    """
    queries: Sequence[int] = options.queries or detected_queries(trace, options.threshold)
    if not queries:
        best = int(trace.scores().amax(-1).argmax())
        raise NoDetections(
            f"nothing scores {options.threshold:g} or more; the best is {trace.query_name(best)}: choose a lower "
            f"threshold, or queries by number (such as {best})"
        )
    return shown_predictions(trace, queries)


def shown_predictions(trace: TraceData, queries: Sequence[int], layer: int = -1) -> list[QueryPrediction]:
    """Return what some queries predict in a decoder layer."""
    scores, classes = trace.scores(layer).max(-1)  # [Q]
    boxes = trace.boxes_xyxy(layer)  # [Q, 4]
    colours = class_colours(trace.classes.names)
    result = []
    for query in queries:
        index = int(classes[query])
        name = trace.classes.names[index]
        x0, y0, x1, y1 = boxes[query].tolist()
        label = drawable_class_label(name, trace.classes.ids[index])
        result.append(QueryPrediction(query, label, float(scores[query]), (x0, y0, x1, y1), colours[name]))
    return result


def shown_predictions_in_layer(trace: TraceData, query: int, layer: int) -> list[QueryPrediction]:
    """Return what a query predicts in decoder layer `layer` from 0; empty where only later layers predict."""
    first = trace.layers("decoder.cross") - len(trace.logits)
    return shown_predictions(trace, [query], layer - first) if layer >= first else []


def select_recorded_layers(trace: TraceData, kind: Kind, options: ViewOptions) -> list[tuple[int, str]]:
    """Return index and site of the layers to show: the chosen one, else all that were recorded.

    Raises:
        NotInTrace: there are none.
    """
    sites = trace.sites_of(kind)
    if options.layer is not None or not sites:
        return [select_recorded_site(trace, kind, options)]
    recorded = [(i, site) for i, site in enumerate(sites) if site in trace.records]
    if not recorded:
        raise NotInTrace(f"no {kind} attention was recorded; trace with sites=['{kind.replace('.', '.*.')}']")
    return recorded


def select_recorded_site(trace: TraceData, kind: Kind, options: ViewOptions) -> tuple[int, str]:
    """Return index and site of the one layer to show: the chosen one, else the last.

    Raises:
        NotInTrace: the model has no such layer, or it was not recorded.
    """
    sites = trace.sites_of(kind)
    layer = -1 if options.layer is None else options.layer
    if not sites:
        raise NotInTrace(f"{trace.card.variant} has no {kind} attention")
    if not -len(sites) <= layer < len(sites):
        raise NotInTrace(f"layer {layer}: {trace.card.variant} has {counted(len(sites), f'layer of {kind}')}")
    site = sites[layer]
    if site not in trace.records:
        raise NotInTrace(f"{site} was not recorded; trace with sites=['{site}']")
    return layer % len(sites), site


@dataclass(frozen=True)
class AttentionRow:
    """One row of one or several attention layers: a query of the decoder, or an encoder token.

    Attributes:
        row: index of the query or token.
        name: name of the row in headings and captions.
        sites: index and site of every layer to show.
        point: x, y of the token in pixels of the original; None for a query.
        note: why it is a query where a point was chosen.
    """

    row: int
    name: str
    sites: tuple[tuple[int, str], ...]
    point: tuple[float, float] | None
    note: str = ""

    def boxes(self, trace: TraceData, layer: int) -> list[QueryPrediction]:
        """Return what the query predicts in a layer; empty for a token."""
        return [] if self.point is not None else shown_predictions_in_layer(trace, self.row, layer)


def selected_row(
    trace: TraceData,
    options: ViewOptions,
    every_layer: bool = False,
    fits: Callable[[Kind], bool] | None = None,
) -> AttentionRow:
    """Return the token at the chosen point, else the chosen query, else that of the best detection.

    Where the encoder has no attention of the kind that is shown, it is the query.

    Args:
        trace: the trace.
        options: point or query, layer, from_level.
        every_layer: all layers, not the chosen or last one.
        fits: whether attention of a kind can be shown; by default wherever the model has it.

    Raises:
        NotInTrace: there is no such attention.
        NoDetections: no point or query was chosen and no query reaches the threshold.
    """
    kind: Kind = trace.token_kind if options.points else "decoder.cross"
    note = ""
    if options.points and not (fits(kind) if fits else trace.sites_of(kind)):
        kind = "decoder.cross"
        if fits is None or fits(kind):
            note = "the encoder has no such attention at the point: a query is shown instead"
    if fits is not None and not fits(kind):
        raise NotInTrace(f"{trace.card.variant} has no deformable attention at {kind}")
    sites = (
        select_recorded_layers(trace, kind, options)
        if every_layer
        else [select_recorded_site(trace, kind, options)]
    )
    if options.points and not note:
        x, y = point = options.points[0]
        site = sites[-1][1]
        row = trace.token_at(point, options.from_level, site)
        return AttentionRow(
            row, f"token{selected_level_text(trace, options, site)} at ({x:g}, {y:g})", tuple(sites), point
        )
    first = shown_queries(trace, options)[0]
    return AttentionRow(first.query, f"{first.title} ({first.label})", tuple(sites), None, note)


def selected_level_text(trace: TraceData, options: ViewOptions, site: str) -> str:
    """Return ` of level 1` for a token of a site with several levels, else nothing."""
    count = len(trace.levels_at(site))
    return f" of level {options.from_level % count}" if count > 1 else ""


def select_box_centre(box_xyxy: Sequence[float], trace: TraceData) -> tuple[float, float]:
    """Return the centre of a box in whole pixels, clamped to the crop that the model ran on."""
    x0, y0, x1, y1 = trace.geometry.crop_xyxy
    x, y = round((box_xyxy[0] + box_xyxy[2]) / 2), round((box_xyxy[1] + box_xyxy[3]) / 2)
    return min(max(x, x0), x1), min(max(y, y0), y1)
