"""Sampling points over the picture: by level, by head, by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrscope.core.attention_map import Selection
from detrscope.core.trace_data import TraceData
from detrscope.lens.maps import map_of_rows
from detrscope.views.canvas import WHITE, Panel, PixelFigure, Scale
from detrscope.views.canvas.figure import SCALE
from detrscope.views.captions import caption, model, short
from detrscope.views.grid import PanelGrid, in_rows, panel_size
from detrscope.views.options import DEFAULT_OPTIONS, ShownQuery, ViewOptions
from detrscope.views.row import AttentionRow
from detrscope.views.sampling_points import Points, asked_for_points, draw_points, key, points_of
from detrscope.views.viewport import Viewport, corner_text, mark, outline, overlay, zoom_note

FOOT = 26  # pixels, for the key
FAR = 0.6  # size of marks where all lie close together
UNIT = "weight of a point"
MARKED = "colour: the weight of a point; shape and size: its level; points beyond the map find nothing"


def draw_levels(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """All levels together and each alone, and beside them the same attention splatted on the tokens.

    Raises:
        NotInTrace: there is no deformable attention.
        UserError: nothing was found.
    """
    who = asked_for_points(trace, choice)
    ((layer, site),) = who.sites
    points = points_of(trace, site, who.row).chosen(choice.head, choice.level_of(trace))
    levels = np.unique(points.levels).tolist()
    chosen = Selection(site, (who.row,), choice.head, choice.merge, choice.level, who.point)
    attention = map_of_rows(trace, chosen, who.name)
    figure = _Figure(trace, who, choice, [points], 2 + (len(levels) if len(levels) > 1 else 0))
    about = f"{figure.caption(site, choice)} Splatted: {attention.caption}."
    sheet = figure.sheet(f"Where {who.name} sampled, level by level", about)
    boxes = who.boxes(trace, layer)
    first = "all levels" if choice.level is None else f"level {levels[0]}"
    figure.show(sheet, 0, first, [points], boxes, whole=True)
    panel = figure.panel(sheet, 1, "splatted on the tokens", f"sums to {attention.mass:.3f}", whole=True)
    corner_text(panel, short(overlay(panel, attention)))
    outline(panel, boxes)
    if len(levels) > 1:
        for i, level in enumerate(levels, start=2):
            figure.show(sheet, i, f"level {level}", [points.chosen(level=level)], boxes)
    return sheet


def draw_point_heads(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """A panel for each head.

    Raises:
        NotInTrace: there is no deformable attention.
        UserError: nothing was found.
    """
    who = asked_for_points(trace, choice)
    ((layer, site),) = who.sites
    points = points_of(trace, site, who.row).chosen(level=choice.level_of(trace))
    count = len(points.weights)
    heads = range(count) if choice.head is None else [choice.head % count]
    figure = _Figure(trace, who, choice, [points], len(heads))
    sheet = figure.sheet(f"Where each head of {who.name} sampled", figure.caption(site, choice))
    for i, head in enumerate(heads):
        figure.show(sheet, i, f"head {head}", [points.chosen(head)], who.boxes(trace, layer))
    return sheet


def draw_point_layers(trace: TraceData, choice: ViewOptions = DEFAULT_OPTIONS) -> PixelFigure:
    """All points of all layers together, and each layer alone.

    Raises:
        NotInTrace: there is no deformable attention.
        UserError: nothing was found.
    """
    who = asked_for_points(trace, choice, every_layer=True)
    parts = {
        layer: points_of(trace, site, who.row).chosen(choice.head, choice.level_of(trace))
        for layer, site in who.sites
    }
    every = list(parts.values())
    several = len(parts) > 1
    figure = _Figure(trace, who, choice, every, len(parts) + several)
    sites = ", ".join(site for _, site in who.sites)
    sheet = figure.sheet(f"Where {who.name} sampled, layer by layer", figure.caption(sites, choice))
    if several:
        figure.show(sheet, 0, "all layers", every, who.boxes(trace, who.sites[-1][0]), whole=True)
    for i, (layer, part) in enumerate(parts.items(), start=int(several)):
        figure.show(sheet, i, f"layer {layer}", [part], who.boxes(trace, layer))
    return sheet


class _Figure:
    """What the three have in common: tiles, one colour scale, a key; from near where points lie close together."""

    def __init__(
        self, trace: TraceData, who: AttentionRow, choice: ViewOptions, every: Sequence[Points], panels: int
    ) -> None:
        self.trace, self.who, self.points = trace, who, every[-1]
        self.whole = Viewport.of(trace, choice)
        boxes = [one.box_xyxy for layer, _ in who.sites for one in who.boxes(trace, layer)]
        corners = np.array(boxes).reshape(-1, 2)
        self.near = self.whole.near(np.concatenate([*(part.around for part in every), corners]))
        self.scale = Scale.amounts(*(part.weights for part in every), label=UNIT)
        rows, self.columns = in_rows(range(panels), 4)
        size = panel_size(self.whole, self.columns, 400, SCALE)
        self.tiles = PanelGrid(size, self.columns, rows, lines=2, scale=self.scale, foot=FOOT)

    def caption(self, sites: str, choice: ViewOptions) -> str:
        count = self.trace.record(self.who.sites[-1][1]).shape[0]
        which = f"all {count} heads" if choice.head is None else f"head {choice.head % count} of {count}"
        chosen = choice.level_of(self.trace)
        level = "all levels" if chosen is None else f"level {chosen}"
        return caption(
            model(self.trace),
            f"deformable attention at {sites}, {self.who.name}, {which}, {level}",
            "softmax over the points of a head, all levels together",
            MARKED,
            zoom_note(self.near, self.whole),
            self.who.instead,
        )

    def sheet(self, heading: str, about: str) -> PixelFigure:
        sheet = self.tiles.sheet(heading, about, Scale.inks)
        key(sheet, self.tiles.height - FOOT / 2 + 4, self.trace, self.points)
        return sheet

    def panel(self, sheet: PixelFigure, index: int, *title: str, whole: bool = False) -> Panel:
        row, column = divmod(index, self.columns)
        self.tiles.title(sheet, row, column, *title)
        frame = self.whole if whole else self.near
        panel = frame.panel(sheet, self.tiles.place(row, column), self.tiles.size, grey=True)
        if whole and self.near is not self.whole:
            panel.box(self.near.window, WHITE, width=1.2)
        if self.who.point is not None:
            mark(panel, self.who.point)
        return panel

    def show(
        self,
        sheet: PixelFigure,
        index: int,
        title: str,
        parts: Sequence[Points],
        boxes: Sequence[ShownQuery],
        whole: bool = False,
    ) -> None:
        panel = self.panel(sheet, index, title, self._counted(parts), whole=whole)
        for points in parts:
            draw_points(panel, points, self.scale, FAR if whole and self.near is not self.whole else 1.0)
        outline(panel, boxes)

    def _counted(self, parts: Sequence[Points]) -> str:
        count, lost = sum(p.weights.size for p in parts), sum(p.outside(self.whole.window) for p in parts)
        return f"{count} points" + (f", {lost} beyond the picture" if lost else "")
