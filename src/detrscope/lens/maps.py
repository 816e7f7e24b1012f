"""From rows of attention to maps over the image, and how much of a map lies where."""

from __future__ import annotations

import torch
from torch import Tensor

from detrscope.core.boxes import cxcywh_to_xyxy
from detrscope.core.types import Level


def map_of(row: Tensor, level: Level) -> Tensor:
    """Attention over the tokens of one level as a map: [..., S] -> [..., H, W]."""
    return row.unflatten(-1, (level.height, level.width))


def merged_over(rows: Tensor, queries: Tensor) -> Tensor:
    """Mean over heads and over some queries, each counting the same: [h, Q, S], indices [n] -> [S].

    With no query chosen, the mean over all of them.
    """
    chosen = rows[:, queries] if len(queries) else rows
    return chosen.mean(dim=(0, 1))


def coverage(boxes_cxcywh: Tensor, level: Level) -> Tensor:
    """How much of each cell of an unpadded map lies inside each box, 0..1: [n, 4] -> [n, H * W]."""
    low, high = cxcywh_to_xyxy(boxes_cxcywh).split(2, dim=-1)  # [n, 2] x, y
    parts = []
    for axis, cells in ((0, level.width), (1, level.height)):
        edge = torch.arange(cells + 1, device=low.device) / cells
        inside = torch.minimum(edge[1:], high[:, axis, None]) - torch.maximum(edge[:-1], low[:, axis, None])
        parts.append(inside.clamp(min=0) * cells)  # [n, cells]
    across, down = parts
    return (down[:, :, None] * across[:, None, :]).flatten(1)


def mass_inside(rows: Tensor, boxes_cxcywh: Tensor, level: Level) -> Tensor:
    """The part of each query's attention that lies in its box, averaged over heads: [h, n, S], [n, 4] -> [n].

    A cell that the box covers in part counts in part. Of uniform attention it is the area of the box.
    """
    return (rows.mean(0) * coverage(boxes_cxcywh, level)).sum(-1)
