"""Coverage of token cells by boxes and masks of the original image.

Attention inside a cell is not known: its weight is taken to lie evenly over it, so that an object smaller than a cell
gets its share of the cell and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.types import Level


def cover_of_boxes(boxes_xyxy: Tensor, geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """Return the share of each cell's image that lies in each box, 0..1: [n, 4] pixels of the original -> [n, S].

    For uniform attention over the tokens of a level, the mass inside is the area of the box.
    """
    corners = geometry.to_model(boxes_xyxy.float().reshape(-1, 2, 2))  # [n, 2, 2] model pixels
    low, high = corners.unbind(1)  # [n, 2] x, y
    parts = []
    for level in levels:
        sides = []
        for axis, cells in ((0, level.width), (1, level.height)):
            content, padded = geometry.content[1 - axis], geometry.padded[1 - axis]
            edge = (torch.arange(cells + 1) * (padded / cells)).clamp(max=content)  # model pixels
            end = torch.minimum(edge[1:], high[:, axis, None])
            inside = (end - torch.maximum(edge[:-1], low[:, axis, None])).clamp(min=0)
            sides.append(inside / (edge[1:] - edge[:-1]).clamp(min=1e-6))  # [n, cells]
        across, down = sides
        parts.append((down[:, :, None] * across[:, None, :]).flatten(1))
    return torch.cat(parts, dim=1)


def cover_of_masks(masks: Tensor, geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """Return the share of each cell's image that each mask covers, 0..1; a cell on padding lies in none.

    Args:
        masks: [r, height, width] bool, or float 0..1, pixels of the original; they may overlap.
        geometry: geometry of the image.
        levels: sizes of the feature levels.

    Returns:
        [r, S] float32, S over the levels in order.

    Raises:
        UserError: the masks are not of the size of the image.
    """
    size = [geometry.height, geometry.width]
    if list(masks.shape[1:]) != size:
        raise UserError(
            f"mask of {list(masks.shape[1:])}: expected the size of the image, {size}, height by width"
        )
    return torch.cat([geometry.cell_means(masks, level).flatten(1) for level in levels], dim=1)


def area_covered_by_masks(masks: Tensor) -> Tensor:
    """Return the share of the image that each mask covers, the mass of uniform attention: [r, H, W] -> [r]."""
    return masks.float().mean(dim=(1, 2))


def centres_of_covered_tokens(geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """Return the centre of every token's cell in pixels of the original: [S, 2] x, y."""
    return torch.cat([geometry.centres(level) for level in levels])
