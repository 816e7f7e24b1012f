"""Door 2: all deformable attention happens here, is recorded here and is edited here.

Multi-scale deformable attention, Zhu et al. 2020 (arXiv:2010.04159), equations 2 and 3: every query looks at a few
points of the maps, wherever they fall, and mixes what it finds there by weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from detrscope.core.types import Level


def sample(
    value: Tensor,
    points: Tensor,
    scores: Tensor,
    *,
    levels: Sequence[Level],
    point_levels: Sequence[int],
    reference: Tensor,
    site: str,
    probe: Probe | None = None,
) -> Tensor:
    """Multi-head deformable attention of queries over the values of all feature maps.

    Args:
        value: [B, S, h, d], zero where there is padding; S runs over the levels in order.
        points: [B, Q, h, P, 2] x, y, 0..1 of the point's own map with its padding; may lie outside, where values are 0.
        scores: [B, Q, h, P] before the softmax over all P points of a head.
        levels: sizes of the L maps.
        point_levels: the level of each of the P points; any number of points per level, in any order.
        reference: [B, Q, L, 2 or 4] reference points or boxes the points were placed around, kept in the record.
        site: the name under which a probe finds this place.
        probe: keeps the record of this site and makes its edits; None when nobody looks.

    Returns:
        [B, Q, h*d] in the type of `value`, heads side by side, before the output projection.
    """
    weights = scores.softmax(-1)  # [B, Q, h, P]
    if probe is not None and probe.wants(site):
        probe.keep(
            site,
            DeformableRecord(
                points=points.detach().transpose(1, 2),
                weights=weights.detach().transpose(1, 2),
                value=value.detach().transpose(1, 2),
                point_levels=tuple(point_levels),
                levels=tuple(levels),
                reference=reference.detach(),
            ),
        )
    out = sample_reference(value, points, weights, levels, point_levels)
    return out if probe is None else probe.tap(site, out)


def sample_reference(
    value: Tensor, points: Tensor, weights: Tensor, levels: Sequence[Level], point_levels: Sequence[int]
) -> Tensor:
    """The same by grid_sample, level by level: [B, Q, h*d]."""
    b, _, h = points.shape[:3]
    grid = (2 * points - 1).permute(0, 2, 1, 3, 4).flatten(0, 1)  # [B*h, Q, P, 2]
    mix = weights.permute(0, 2, 1, 3).flatten(0, 1)[:, None]  # [B*h, 1, Q, P]
    out, start = None, 0
    for index, (height, width) in enumerate(levels):
        here = [p for p, level in enumerate(point_levels) if level == index]
        tokens = value[:, start : start + height * width]  # [B, H*W, h, d]
        start += height * width
        if not here:
            continue
        plane = tokens.permute(0, 2, 3, 1).reshape(b * h, -1, height, width)  # [B*h, d, H, W]
        found = F.grid_sample(plane, grid[:, :, here].to(plane.dtype), align_corners=False)  # [B*h, d, Q, n]
        part = (found * mix[..., here].to(found.dtype)).sum(-1)  # [B*h, d, Q]
        out = part if out is None else out + part
    assert out is not None, "there is at least one point"
    return out.unflatten(0, (b, h)).permute(0, 3, 1, 2).flatten(2)
