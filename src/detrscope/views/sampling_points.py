"""Deformable attention point by point: where a query sampled, how much it took, and around what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.records import DeformableRecord
from detrscope.core.trace_data import Kind, TraceData
from detrscope.views.canvas import BLACK, PALETTE, Panel, PixelFigure, Scale
from detrscope.views.options import ViewOptions
from detrscope.views.row import AttentionRow, attention_row

SIZES = (7, 9, 12, 14, 16)  # pixels across, finest map first
MARKS = ("o", "s", "D", "^", "v")
REFERENCE = PALETTE[1]


@dataclass(frozen=True)
class Points:
    """The points of one query at one site, all heads, in pixels of the original."""

    xy: np.ndarray  # [h, P, 2]
    weights: np.ndarray  # [h, P]
    levels: np.ndarray  # [P]
    reference_xy: np.ndarray  # [2]
    reference_xyxy: tuple[float, float, float, float] | None  # where points are placed in a box

    def chosen(self, head: int | None = None, level: int | None = None) -> Points:
        """Those of one head, or of one level."""
        heads = slice(None) if head is None else [head]
        here = np.ones(len(self.levels), bool) if level is None else self.levels == level
        return Points(
            self.xy[heads][:, here],
            self.weights[heads][:, here],
            self.levels[here],
            self.reference_xy,
            self.reference_xyxy,
        )

    @property
    def around(self) -> np.ndarray:
        """The corners of everything: places [n, 2]."""
        box = np.array(self.reference_xyxy or self.reference_xy).reshape(-1, 2)
        return np.concatenate([self.xy.reshape(-1, 2), box, self.reference_xy[None]])

    def outside(self, window: Sequence[float]) -> int:
        """How many lie beyond the window."""
        inside = (self.xy >= np.array(window[:2])) & (self.xy <= np.array(window[2:]))
        return int((~inside.all(-1)).sum())


def asked_for_points(trace: TraceData, choice: ViewOptions, every_layer: bool = False) -> AttentionRow:
    """Whose points are shown: the token at the chosen point, else the chosen query, else that of the best detection.

    Raises:
        NotInTrace: there is no deformable attention of that kind.
        UserError: nothing was found.
    """

    def is_deformable(kind: Kind) -> bool:
        return any(isinstance(trace.records.get(site), DeformableRecord) for site in trace.sites_of(kind))

    return attention_row(trace, choice, every_layer, is_deformable)


def points_of(trace: TraceData, site: str, row: int) -> Points:
    """The points of one row of a site."""
    record = trace.record(site)
    assert isinstance(record, DeformableRecord)
    g = trace.geometry
    reference = record.reference[0, row, 0].float()  # [2 or 4] of the finest map
    box = None
    if len(reference) == 4:
        corners = g.points_of(cxcywh_to_xyxy(reference).view(2, 2)).flatten().tolist()
        box = (corners[0], corners[1], corners[2], corners[3])
    return Points(
        xy=g.points_of(record.points[0, :, row].float()).numpy(),
        weights=record.weights[0, :, row].float().numpy(),
        levels=np.array(record.point_levels),
        reference_xy=g.points_of(reference[:2]).numpy(),
        reference_xyxy=box,
    )


def draw_points(panel: Panel, points: Points, scale: Scale, shrunk: float = 1.0) -> None:
    """Fine maps over coarse ones, the strongest on top, the reference under all; marks `shrunk` times as large."""
    if points.reference_xyxy is not None:
        panel.box(points.reference_xyxy, REFERENCE, dashed=True)
    for level in np.unique(points.levels)[::-1].tolist():  # large marks of coarse maps under small ones
        here = points.levels == level
        xy, weights = points.xy[:, here].reshape(-1, 2), points.weights[:, here].reshape(-1)
        order = np.argsort(weights, kind="stable")
        size, shape = shrunk * SIZES[min(level, len(SIZES) - 1)], MARKS[min(level, len(MARKS) - 1)]
        panel.dots(xy[order], scale.inks(weights[order]), size, marker=shape, rim=BLACK)
    panel.cross(points.reference_xy.tolist(), REFERENCE, 22 * shrunk)


def key(sheet: PixelFigure, y: float, trace: TraceData, points: Points) -> None:
    """A line that says what the marks are."""
    x: float = 20
    grey = (150, 150, 150)
    for level in np.unique(points.levels).tolist():
        mark, size = MARKS[min(level, len(MARKS) - 1)], SIZES[min(level, len(SIZES) - 1)]
        height, width = trace.levels[level]
        x = sheet.mark(x, y, mark, size, grey, f"level {level} ({height}x{width} tokens)")
    sheet.mark(x, y, "+", 14, REFERENCE, "reference point" + (" and box" if points.reference_xyxy else ""))
