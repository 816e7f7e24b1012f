"""Boxes and masks of the original image as parts of tokens: how much of each token's cell they cover."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrscope.core.errors import UserError
from detrscope.core.geometry import Geometry
from detrscope.core.types import Level


def cover_of_boxes(boxes_xyxy: Tensor, geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """The part of each cell's image that lies in each box, 0..1: [n, 4] pixels of the original -> [n, S].

    Of attention that is the same for all tokens of a map, the mass inside is the area of the box.
    """
    corners = geometry.to_model(boxes_xyxy.float().unflatten(-1, (2, 2)))  # [n, 2, 2] model pixels
    low, high = corners.unbind(1)  # [n, 2] x, y
    parts = []
    for level in levels:
        sides = []
        for axis, cells in ((0, level.width), (1, level.height)):
            content, padded = geometry.content[1 - axis], geometry.padded[1 - axis]
            edge = (torch.arange(cells + 1) * (padded / cells)).clamp(max=content)  # model pixels
            inside = torch.minimum(edge[1:], high[:, axis, None]) - torch.maximum(
                edge[:-1], low[:, axis, None]
            )
            sides.append(inside.clamp(min=0) / (edge[1:] - edge[:-1]).clamp(min=1e-6))  # [n, cells]
        across, down = sides
        parts.append((down[:, :, None] * across[:, None, :]).flatten(1))
    return torch.cat(parts, dim=1)


def cover_of_mask(mask: Tensor, geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """The part of each cell's image that a mask covers, 0..1: bool or float [height, width] of the original -> [S].

    Raises:
        UserError: the mask is not of the size of the image.
    """
    if tuple(mask.shape) != (geometry.height, geometry.width):
        size = [geometry.height, geometry.width]
        raise UserError(f"mask of {list(mask.shape)}: the image is {size}, height by width")
    parts = []
    for level in levels:
        down, across = geometry.spread(level)
        parts.append((down.T @ mask.float() @ across).flatten())
    return torch.cat(parts)


def centres_of(geometry: Geometry, levels: Sequence[Level]) -> Tensor:
    """The middle of every token's cell in pixels of the original: [S, 2] x, y."""
    return torch.cat([geometry.centres(level) for level in levels])
