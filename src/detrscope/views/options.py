"""What to look at of a trace, and what that is in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from detrscope.core.argument_check import checked_fields
from detrscope.core.attention_map import AttentionMap, Merge, Selection
from detrscope.core.errors import UserError
from detrscope.core.trace_data import Kind, TraceData
from detrscope.lens.maps import map_of_row, map_of_rows
from detrscope.views.canvas import Colour, class_colours, class_label

THRESHOLD = 0.5
STACKS: tuple[Kind, ...] = ("encoder.self", "decoder.self", "decoder.cross")


class NoDetections(UserError):
    """No detection scores high enough."""


class PointOutsideImage(UserError):
    """A point lies outside of this picture."""


class NotInTrace(UserError):
    """A view shows what this trace does not have, such as deformable attention."""


@checked_fields
@dataclass(frozen=True)
class ViewOptions:
    """What is left out, each view chooses by itself.

    Attributes:
        queries: their numbers; none: those of the detections.
        points: x, y of the original image.
        layer: of the encoder or decoder, counted from the end where negative; None: the last, or all where a view shows
            several.
        head: one head; None: merged, or all where a view shows several.
        level: one map of the image; None: all.
        from_level: of which map the token at a point is; 0 is the finest.
        merge: how heads are merged.
        cells: show each token's weight as an even cell, not smoothed between them.
        threshold: the least score of a detection.
        against: another trace of the same picture, to compare with.
    """

    queries: tuple[int, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    layer: int | None = None
    head: int | None = None
    level: int | None = None
    from_level: int = 0
    merge: Merge = "mean"
    cells: bool = False
    threshold: float = THRESHOLD
    against: TraceData | None = None

    def check(self, trace: TraceData) -> None:
        """Refuse numbers that mean nothing in this trace, whatever the view.

        Raises:
            UserError: a query, point, layer, head or level that it does not have.
        """
        if self.head is not None and self.merge != DEFAULT_OPTIONS.merge:
            raise UserError(f"merge {self.merge}: makes no difference to head {self.head} alone")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"threshold {self.threshold}: expected a score between 0 and 1")
        for query in self.queries:
            _in_range("query", query, trace.queries, "query", negative=False)
        g = trace.geometry
        for x, y in self.points:
            x0, y0, x1, y1 = g.crop_xyxy
            if not (x0 <= x <= x1 and y0 <= y <= y1):
                raise PointOutsideImage(
                    f"point {x:g},{y:g}: is not on the picture; expected x {x0:g} to {x1:g} and y {y0:g} to {y1:g}"
                )
        if self.layer is not None:
            _in_range("layer", self.layer, max(map(trace.layers, STACKS)), "layer")
        if self.head is not None and trace.records:
            _in_range("head", self.head, max(r.shape[0] for r in trace.records.values()), "head")
        for name, level in (("level", self.level), ("from-level", self.from_level)):
            if level is not None:
                _in_range(name, level, len(trace.levels), "map of the image")

    def level_of(self, trace: TraceData) -> int | None:
        """The number of the chosen map, from 0."""
        return None if self.level is None else self.level % len(trace.levels)


DEFAULT_OPTIONS = ViewOptions()


@dataclass(frozen=True)
class ShownQuery:
    """A query that is shown, with what it predicts."""

    query: int
    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]  # pixels of the original
    colour: Colour

    @property
    def title(self) -> str:
        """Such as `query 37`."""
        return f"query {self.query}"

    @property
    def says(self) -> str:
        """Such as `dog 0.98`."""
        return f"{self.name} {self.score:.2f}"


def shown_queries(trace: TraceData, choice: ViewOptions) -> list[ShownQuery]:
    """The chosen queries, or those of the detections, best first, with what they predict in the last layer.

    Raises:
        NothingFound: no query was chosen and none scores high enough.
    """
    queries: Sequence[int] = choice.queries
    if not queries:
        found = trace.detections(choice.threshold)
        queries = list(dict.fromkeys(found.query_ids.tolist()))
    if not queries:
        best = int(trace.scores().amax(-1).argmax())
        raise NoDetections(
            f"nothing scores {choice.threshold:g} or more; the best is {trace.query_name(best)}: choose a lower "
            f"--threshold, or queries by number (--query {best})"
        )
    return predictions(trace, queries)


def predictions(trace: TraceData, queries: Sequence[int], layer: int = -1) -> list[ShownQuery]:
    """What some queries predict in a decoder layer."""
    scores, classes = trace.scores(layer).max(-1)  # [Q]
    boxes = trace.boxes_xyxy(layer)  # [Q, 4]
    colours = class_colours(trace.classes.names)
    result = []
    for query in queries:
        index = int(classes[query])
        name = trace.classes.names[index]
        x0, y0, x1, y1 = boxes[query].tolist()
        label = class_label(name, trace.classes.ids[index])
        result.append(ShownQuery(query, label, float(scores[query]), (x0, y0, x1, y1), colours[name]))
    return result


def prediction_in_layer(trace: TraceData, query: int, layer: int) -> list[ShownQuery]:
    """What a query predicts in the layer of that number; nothing where only later layers predict."""
    first = trace.layers("decoder.cross") - len(trace.logits)
    return predictions(trace, [query], layer - first) if layer >= first else []


def layers_of(trace: TraceData, kind: Kind, choice: ViewOptions) -> list[tuple[int, str]]:
    """Numbers and sites of the layers to show: the chosen one, else all that were recorded.

    Raises:
        NotInTrace: there are none.
    """
    known = trace.sites_of(kind)
    if not known:
        raise NotInTrace(f"{trace.card.variant} has no {kind} attention")
    if choice.layer is not None:
        index, site = site_of(trace, kind, choice)
        return [(index, site)]
    recorded = [(i, site) for i, site in enumerate(known) if site in trace.records]
    if not recorded:
        raise NotInTrace(f"no {kind} attention was recorded; trace with sites=['{kind.replace('.', '.*.')}']")
    return recorded


def site_of(trace: TraceData, kind: Kind, choice: ViewOptions) -> tuple[int, str]:
    """Number and site of the one layer to show: the chosen one, else the last.

    Raises:
        NotInTrace: the model has no such layer, or it was not recorded.
    """
    known = trace.sites_of(kind)
    layer = -1 if choice.layer is None else choice.layer
    if not known:
        raise NotInTrace(f"{trace.card.variant} has no {kind} attention")
    if not -len(known) <= layer < len(known):
        raise NotInTrace(
            f"layer {layer}: {trace.card.variant} has {_numbered(len(known), f'layer of {kind}')}"
        )
    site = known[layer]
    if site not in trace.records:
        raise NotInTrace(f"{site} was not recorded; trace with sites=['{site}']")
    return layer % len(known), site


def maps_of(trace: TraceData, site: str, rows: Sequence[int], choice: ViewOptions) -> list[AttentionMap]:
    """The map of each of some rows of a site, heads merged as chosen."""
    return [
        map_of_rows(
            trace,
            Selection(site, (row,), choice.head, choice.merge, choice.level),
            trace_row(trace, site, row),
        )
        for row in rows
    ]


def head_maps(trace: TraceData, site: str, row: int, choice: ViewOptions) -> list[AttentionMap]:
    """The map of every head for one row of a site."""
    rows = trace.record(site).rows(torch.tensor([row]))[0, :, 0].float()  # [h, S]
    return [
        map_of_row(
            trace,
            rows[head],
            Selection(site, (row,), head, choice.merge, choice.level),
            trace_row(trace, site, row),
            len(rows),
        )
        for head in range(len(rows))
    ]


def trace_row(trace: TraceData, site: str, row: int) -> str:
    """What a row of a site is."""
    return trace.query_name(row) if site.startswith("decoder") else f"token {row}"


def centre(box_xyxy: Sequence[float], trace: TraceData) -> tuple[float, float]:
    """The middle of a box in whole pixels, moved onto what was looked at."""
    x0, y0, x1, y1 = trace.geometry.crop_xyxy
    x, y = round((box_xyxy[0] + box_xyxy[2]) / 2), round((box_xyxy[1] + box_xyxy[3]) / 2)
    return min(max(x, x0), x1), min(max(y, y0), y1)


def _in_range(name: str, number: int, count: int, what: str, negative: bool = True) -> None:
    if not (-count if negative else 0) <= number < count:
        raise UserError(f"{name} {number}: this trace has {_numbered(count, what)}")


def _numbered(count: int, what: str) -> str:
    """Such as `3 layers of decoder.cross, 0 to 2`."""
    first, _, rest = what.partition(" ")
    many = f"{first[:-1]}ies" if first.endswith("ry") else f"{first}s"
    return f"one {what}, 0" if count == 1 else f"{count} {f'{many} {rest}'.strip()}, 0 to {count - 1}"
