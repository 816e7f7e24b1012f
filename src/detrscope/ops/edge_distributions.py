"""Boxes whose edges are distributions over unequal steps (D-FINE, arXiv:2410.13842, section 4.1).

An edge lies at a distance from the centre of a start box: half its side, plus a step in units of the side over `scale`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def edge_steps(bins: int, scale: Tensor, reach: Tensor) -> Tensor:
    """Return the step of each bin, W(n) of equation 2: fine around zero, coarse at both ends.

    Args:
        bins: number of bins R + 1, odd.
        scale: [] or [1] number of units in a side.
        reach: [] or [1] the outermost steps are twice this many sides.

    Returns:
        [R + 1] steps in units, ascending.
    """
    half = (bins - 1) // 2
    limit = (reach * scale).abs().reshape(1)  # [1]
    exponent = torch.arange(1, half, device=limit.device, dtype=limit.dtype)  # [R/2 - 1]
    steps = (limit + 1) ** (exponent * (1 / (half - 1))) - 1
    return torch.cat([-2 * limit, -steps.flip(0), torch.zeros_like(limit), steps, 2 * limit])


def boxes_from_edges(start: Tensor, steps: Tensor, scale: Tensor) -> Tensor:
    """Move the edges of boxes (equation 1).

    Args:
        start: boxes_cxcywh [..., 4].
        steps: of left, top, right, bottom, outwards [..., 4].
        scale: [] or [1] number of units in a side.

    Returns:
        boxes_cxcywh [..., 4].
    """
    centre, size = start[..., :2], start[..., 2:]
    near, far = torch.split(0.5 + steps / scale.abs(), 2, dim=-1)  # [..., 2] in sides
    return torch.cat([centre + (far - near) * size / 2, (near + far) * size], dim=-1)


def steps_to_edges(start: Tensor, boxes_xyxy: Tensor, scale: Tensor) -> Tensor:
    """Return the steps of left, top, right, bottom [..., 4] that lead from boxes_cxcywh to `boxes_xyxy` [..., 4]."""
    unit = start[..., 2:] / scale.abs() + 1e-16  # [..., 2]
    near = (start[..., :2] - boxes_xyxy[..., :2]) / unit
    far = (boxes_xyxy[..., 2:] - start[..., :2]) / unit
    return torch.cat([near, far], dim=-1) - 0.5 * scale.abs()


def bins_around(steps: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bin below each step, and how far the step lies towards the next bin.

    Args:
        steps: [...].
        values: [R + 1] step of each bin, ascending.

    Returns:
        Indices [...] int64 in 0..R - 1, and fractions [...] in 0..1. Steps beyond the ends lie at the ends.
    """
    below = torch.searchsorted(values, steps.contiguous(), right=True) - 1
    below = below.clamp(0, len(values) - 2)
    left, right = values[below], values[below + 1]
    return below, ((steps - left) / (right - left)).clamp(0, 1)
