"""Door 2: all deformable attention happens here, is recorded here and is edited here.

Multi-scale deformable attention, Zhu et al. 2020 (arXiv:2010.04159), equations 2 and 3: every query looks at a few
points of the maps, wherever they fall, and mixes what it finds there by weights of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detrscope.core.probe import Probe
from detrscope.core.records import DeformableRecord
from detrscope.core.types import Level
from detrscope.ops.deformable_engine import run_engine, use_engine
from detrscope.ops.deformable_reference import sample_reference

__all__ = ["sample", "sample_reference", "use_engine"]


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
    out = run_engine(value, points, weights, levels, point_levels)
    return out if probe is None else probe.tap(site, out)
