"""Deformable attention as modules: projections around `ops.deformable.sample`.

Multi-scale deformable attention (Zhu et al. 2020, arXiv:2010.04159, section 4.1, equation 3). A query's points are its
reference point plus offsets in cells of each map, or the centre of its reference box plus offsets in parts of the box.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import Linear
from detrscope.core.probe import Probe
from detrscope.core.types import Pyramid
from detrscope.ops.deformable import sample
from detrscope.ops.position import position_valid_ratios


class DeformableAttention(nn.Module):
    """Projections of deformable attention: sampling offsets, weights, values, output.

    Args:
        width: D, divisible by heads.
        heads: h.
        points: sampling points of each head on each map, finest map first; 0 or more.
        site: name of the attention site, such as `encoder.0.self`.
    """

    def __init__(self, width: int, heads: int, points: tuple[int, ...], site: str) -> None:
        super().__init__()
        self.heads = heads
        self.site = site
        self.point_levels = tuple(level for level, count in enumerate(points) for _ in range(count))
        self.shares = tuple(0.5 / points[level] for level in self.point_levels)  # of a box per unit of offset
        value, output = Linear(width, width), Linear(width, width)
        self.value: nn.Module = value
        self.offsets = Linear(width, heads * len(self.point_levels) * 2)
        self.weights = Linear(width, heads * len(self.point_levels))
        self.output: nn.Module = output
        for projection in (value, output):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for projection in (self.offsets, self.weights):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(_star(heads, points).flatten())

    def attend(self, query: Tensor, reference: Tensor, pyramid: Pyramid, probe: Probe | None) -> Tensor:
        """Sum the values at the sampling points by weight: [B, Q, D] -> [B, Q, D].

        Args:
            query: [B, Q, D] content and position.
            reference: [B or 1, Q, L, 2 or 4] points or boxes, 0..1 of each level's map with its padding.
            pyramid: tokens to sample; padding counts as zero.
            probe: records and edits of this site.
        """
        value = self.value(pyramid.tokens)  # [B, S, D]
        if pyramid.padding is not None:
            value = value.masked_fill(pyramid.padding[..., None], 0.0)
        shape = (*query.shape[:2], self.heads, len(self.point_levels))
        exact = torch.promote_types(value.dtype, torch.float32)  # bf16 points would be off by a quarter cell
        offsets = self.offsets(query).view(*shape, 2).to(exact)
        mixed = sample(
            value.reshape(*value.shape[:2], self.heads, -1),
            self._points(offsets, reference.to(exact), pyramid),
            self.weights(query).view(shape),
            levels=pyramid.levels,
            point_levels=self.point_levels,
            reference=reference.expand(query.shape[0], -1, -1, -1),  # len() would fix an exported batch
            site=self.site,
            probe=probe,
        )
        return cast(Tensor, self.output(mixed))

    def _points(self, offsets: Tensor, reference: Tensor, pyramid: Pyramid) -> Tensor:
        """Offsets [B, Q, h, P, 2] around references -> points [B, Q, h, P, 2], 0..1 of each point's own map."""
        around = reference[:, :, None, list(self.point_levels)]  # [B or 1, Q, 1, P, 2 or 4]
        if around.shape[-1] == 2:
            sides = [
                around.new_full((), side) for level in pyramid.levels for side in (level.width, level.height)
            ]
            cells = 1 / torch.stack(sides).view(-1, 2)  # [L, 2]
            step = cells[list(self.point_levels)]  # [P, 2]
        else:
            step = around[..., 2:] * self._shares(around)[:, None]  # [B, Q, 1, P, 2]
        return torch.addcmul(around[..., :2], offsets, step)

    def _shares(self, like: Tensor) -> Tensor:
        """Return the part of a box that each point moves by per unit of offset, [P]."""
        return like.new_tensor(self.shares)


class DeformableSelfAttention(DeformableAttention):
    """Self-attention of tokens, each sampling all maps around its own centre."""

    def forward(self, x: Tensor, pyramid: Pyramid, probe: Probe | None = None) -> Tensor:
        """Attend from tokens [B, S, D] to the same tokens, with the pyramid's positions and centres: [B, S, D]."""
        assert pyramid.centres is not None, "the neck must give the centres of the tokens"
        reference = _on_each_map(pyramid.centres, pyramid)  # [B or 1, S, L, 2]
        return self.attend(x + pyramid.position, reference, pyramid.with_tokens(x), probe)


class DeformableCrossAttention(DeformableAttention):
    """Cross-attention of queries, sampling all maps around their reference points or boxes."""

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, pyramid: Pyramid, probe: Probe | None = None
    ) -> Tensor:
        """Attend from queries [B, Q, D] with reference boxes_cxcywh [B, Q, 4] (or points [B, Q, 2]): [B, Q, D].

        References are 0..1 of the unpadded image.
        """
        return self.attend(x + position, _on_each_map(reference, pyramid), pyramid, probe)


class DiscreteCrossAttention(DeformableCrossAttention):
    """Deformable cross-attention whose points are token centres (RT-DETRv2, arXiv:2407.17140, section 3).

    Offsets get no gradient: the published recipe fine-tunes a model that was trained without rounding.
    """

    def _points(self, offsets: Tensor, reference: Tensor, pyramid: Pyramid) -> Tensor:
        points = super()._points(offsets, reference, pyramid)
        sizes = [(pyramid.levels[level].width, pyramid.levels[level].height) for level in self.point_levels]
        size = torch.stack([points.new_full((), side) for pair in sizes for side in pair]).view(
            -1, 2
        )  # [P, 2]
        token = (points * size + 0.5).trunc().clamp(min=points.new_zeros(()), max=size - 1)
        return (token + 0.5) / size


class DirectCrossAttention(DeformableCrossAttention):
    """Deformable cross-attention to the tokens as they are: no projection of values, none of the output.

    D-FINE (arXiv:2410.13842, section 5.1), with another number of points on each map.
    """

    def __init__(self, width: int, heads: int, points: tuple[int, ...], site: str) -> None:
        super().__init__(width, heads, points, site)
        self.value, self.output = nn.Identity(), nn.Identity()
        self.register_buffer("point_shares", torch.tensor([2 * share for share in self.shares]))

    point_shares: (
        Tensor  # [P] one over the number of points on the same map; in checkpoints, it tells these numbers
    )

    def _shares(self, like: Tensor) -> Tensor:
        return self.point_shares.to(like.dtype) * 0.5


def _on_each_map(reference: Tensor, pyramid: Pyramid) -> Tensor:
    """Scale references [B, Q, 2 or 4] of the unpadded image to every padded map: [B, Q, L, 2 or 4]."""
    ratios = position_valid_ratios(pyramid.padding, pyramid.levels, reference)  # [B or 1, L, 2]
    ratios = torch.cat([ratios] * (reference.shape[-1] // 2), dim=-1)  # [B or 1, L, 2 or 4]
    return reference[:, :, None] * ratios[:, None]


def _star(heads: int, points: tuple[int, ...]) -> Tensor:
    """Return the initial offsets [h, P, 2]: each head in its own direction, its points 1, 2, 3 ... cells away.

    Directions point to the border of a square (appendix A.4).
    """
    angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)  # [h, 2] x, y
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.cat([torch.arange(1, count + 1, dtype=torch.float32) for count in points])  # [P]
    return direction[:, None] * steps[:, None]
