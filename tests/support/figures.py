"""Traces to be drawn, and what a sheet shows without painting it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from matplotlib.collections import LineCollection
from torch import Tensor

from detrscope.core.geometry import Geometry
from detrscope.core.records import DeformableRecord, DenseRecord, Record, mask_to_bias
from detrscope.core.types import Level
from detrscope.trace_interface import Trace
from detrscope.views.canvas import PixelFigure
from tests.support.tiny_models import built
from tests.support.traces import detector_of, picture

VARIANTS = ("detr-r18", "sprint-deformable-n", "deformable-detr-r50-two-stage")
QUERIES = (4, 1)

# A picture of 60 x 40 pixels, seen at twice its size, padded to 144 x 96: 18 x 12 cells of 4 original pixels each, of
# which 15 x 10 lie on the picture; and a coarser map of 9 x 6.
GEOMETRY = Geometry.of_resize(40, 60, (80, 120)).padded_to(96, 144)
FINE, COARSE = Level(12, 18), Level(6, 9)
CELL = 4  # original pixels
Rectangle = tuple[float, float, float, float]


@cache
def trace_of(variant: str) -> Trace:
    """Of a tiny random model, with everything recorded: not to be changed."""
    return detector_of(variant).trace(picture(), features=["*"])


def made(records: dict[str, Record], levels: Sequence[Level] = (FINE,), **parts: object) -> Trace:
    """A trace whose numbers are known: 3 queries, of which 2 is a dog of score 0.9 at x 12..36, y 8..24.

    In the first of two layers its score is 0.5 and its box is 4 pixels to the right.
    """
    scores = torch.full((2, 3, 4), 0.05)  # cell, dog, far, no object
    scores[:, :, 3] = 0.85
    scores[1, 2], scores[0, 2] = torch.tensor([0.04, 0.9, 0.03, 0.03]), torch.tensor([0.2, 0.5, 0.2, 0.1])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(2, 3, 1)
    boxes[1, 2] = torch.tensor([24 / 60, 16 / 40, 24 / 60, 16 / 40])
    boxes[0, 2] = boxes[1, 2] + torch.tensor([4 / 60, 0, 0, 0])
    whole: dict[str, object] = {
        "card": built("detr-r18").card,
        "geometry": GEOMETRY,
        "image": torch.full((3, 80, 120), 90, dtype=torch.uint8),
        "logits": scores.log(),
        "boxes_cxcywh": boxes,
        "levels": tuple(levels),
        "model_sites": tuple(records),
        "records": records,
    }
    return Trace(**{**whole, **parts})  # type: ignore[arg-type]


def peaked(
    cells: Sequence[Sequence[tuple[int, int]]], level: Level = FINE, sharpness: float = 60.0
) -> Record:
    """Softmax attention whose head h in row q looks at one cell (row, column) only."""
    size = level.height * level.width
    query = torch.zeros(1, len(cells), len(cells[0]), size)
    for head, row in enumerate(cells):
        for q, (y, x) in enumerate(row):
            query[0, head, q, y * level.width + x] = sharpness
    key = torch.eye(size).expand(1, len(cells), -1, -1)
    padding = mask_to_bias(~GEOMETRY.inside(level).flatten(), torch.float32)
    return DenseRecord(query, key, None, 1.0, padding)


def sampled(
    points: Tensor, weights: Tensor, point_levels: Sequence[int] = (0,), reference: Tensor | None = None
) -> Record:
    """Deformable attention at points [h, Q, P, 2] in original pixels."""
    scale = torch.tensor([120 / 60 / 144, 80 / 40 / 96])
    tokens = FINE.height * FINE.width + COARSE.height * COARSE.width
    if reference is None:
        reference = torch.tensor([30.0, 20.0]).expand(points.shape[1], 2)
    return DeformableRecord(
        points=(points * scale)[None],
        weights=weights[None],
        value=torch.zeros(1, points.shape[0], tokens, 1),
        point_levels=tuple(point_levels),
        levels=(FINE, COARSE),
        reference=(reference * scale)[None, :, None].expand(-1, -1, 2, -1),
    )


def content(sheet: PixelFigure) -> list[object]:
    """Every artist of a sheet as plain numbers: equal for equal pictures, much faster than painting."""
    found: list[object] = []
    for axes in sheet.figure().axes:
        found += [(np.asarray(i.get_array()).tobytes(), tuple(i.get_extent())) for i in axes.images]
        found += [(t.get_text(), t.get_position()) for t in axes.texts]
        found += [(tuple(p.get_bbox().bounds), p.get_edgecolor(), p.get_facecolor()) for p in axes.patches]  # type: ignore[attr-defined]
        found += [(ln.get_xydata().tobytes(), str(ln.get_color())) for ln in axes.lines]  # type: ignore[union-attr]
        for c in axes.collections:
            drawn = c.get_segments() if isinstance(c, LineCollection) else c.get_offsets()
            found.append((np.asarray(drawn).tobytes(), np.asarray(c.get_facecolor()).tobytes()))
    return found


def texts(sheet: PixelFigure) -> list[str]:
    """Everything that is written on a sheet."""
    return [t.get_text() for axes in sheet.figure().axes for t in axes.texts]


def middle(cell: tuple[int, int]) -> tuple[float, float]:
    """x, y in pixels of the original."""
    return (cell[1] + 0.5) * CELL, (cell[0] + 0.5) * CELL


def images(sheet: PixelFigure) -> list[tuple[np.ndarray, Rectangle]]:
    """Every image on a sheet and its place: x0, y0, x1, y1 in pixels of its body."""
    board = sheet.figure().axes[0]
    found = []
    for image in board.images:
        x0, x1, y1, y0 = image.get_extent()
        found.append((np.asarray(image.get_array()), (x0, y0, x1, y1)))
    return found


def brightest(values: np.ndarray, place: Rectangle, panel: Rectangle) -> tuple[float, float]:
    """Where the most opaque, then the brightest pixels of a map lie, in pixels of the original, given its panel."""
    strength = values.astype(float).sum(-1)
    rows, columns = np.nonzero(strength >= strength.max() - 3)
    x = place[0] + (columns.mean() + 0.5) / values.shape[1] * (place[2] - place[0])
    y = place[1] + (rows.mean() + 0.5) / values.shape[0] * (place[3] - place[1])
    return (x - panel[0]) / (panel[2] - panel[0]) * 60, (y - panel[1]) / (panel[3] - panel[1]) * 40


def outlined(sheet: PixelFigure, colour: tuple[int, int, int]) -> list[np.ndarray]:
    """The corners of every outline of a colour."""
    found = []
    for patch in sheet.figure().axes[0].patches:
        if not patch.get_fill() and np.allclose(patch.get_edgecolor()[:3], np.array(colour) / 255, atol=2e-3):
            x, y, w, h = patch.get_bbox().bounds  # type: ignore[attr-defined]
            found.append(np.array([x, y, x + w, y + h]))
    return found
