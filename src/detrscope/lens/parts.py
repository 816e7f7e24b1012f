"""How much attention lies on parts of an image, whatever their shape, and how much area they have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrscope.core.geometry import Geometry
from detrscope.core.types import Level


def cells_in(masks: Tensor, geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """Which share of each token's cell lies in each mask, 0..1.

    The cell's weight is taken to lie evenly over it, so that a part smaller than a cell gets its share of the cell
    and no more: what happens inside a cell is not known. A cell on padding lies nowhere.

    Args:
        masks: [r, height, width] bool, pixels of the original; they may overlap.
        geometry: of the image.
        levels: sizes of the maps.

    Returns:
        [r, S] float32, S over the levels in order.
    """
    shares = []
    for level in levels:
        down, across = geometry.spread(level)  # [height, H], [width, W]
        shares.append((down.T @ masks.float() @ across).flatten(1))
    return torch.cat(shares, dim=1)


def mass_in(rows: Tensor, cells: Tensor) -> Tensor:
    """Attention that lies in each part: rows [..., S], cells [r, S] of `cells_in` -> [..., r]."""
    return rows @ cells.T


def areas(masks: Tensor) -> Tensor:
    """The share of the image that each mask covers, what even attention would have: [r, height, width] -> [r]."""
    return masks.float().mean(dim=(1, 2))
