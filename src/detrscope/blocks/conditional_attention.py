"""Conditional cross-attention: scores are the sum of a content term and a spatial term.

Conditional DETR (Meng et al. 2021, arXiv:2108.06152, section 3.2), with reference boxes as in DAB-DETR
(arXiv:2201.12329): content and spatial halves of query and key are concatenated within each head. The spatial
projections of queries and keys start equal, so that a query attends around its reference box from the first step on.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from detrscope.blocks.layers import MLP
from detrscope.core.probe import Probe
from detrscope.core.types import Pyramid
from detrscope.ops.attention import attend
from detrscope.ops.position import sine_coordinates


class ConditionalCrossAttention(nn.Module):
    """Dense cross-attention of queries with reference boxes to tokens with centres.

    Args:
        width: D, divisible by 4 * heads.
        heads: h.
        site: name of the attention site, such as `decoder.0.cross`.
        sharpness: initial scale of the spatial scores; the greater, the more local attention starts.
    """

    def __init__(self, width: int, heads: int, site: str, sharpness: float = 3.0) -> None:
        super().__init__()
        self.heads = heads
        self.site = site
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.where_query = nn.Linear(width, width)
        self.where_key = nn.Linear(width, width)
        self.where_scale = MLP(width, width, width)
        self._start_local(sharpness)

    def _start_local(self, sharpness: float) -> None:
        """Deal the frequencies of both coordinates to the heads evenly, sines with their cosines.

        The spatial score of two positions is then a sum of cosines of their distance, greatest at distance 0.
        """
        width = self.where_query.out_features
        quarter = torch.arange(width // 4)  # the encoding is sin x, cos x, sin y, cos y, a quarter each
        dealt = [
            quarter[head :: self.heads] + part * (width // 4)
            for head in range(self.heads)
            for part in range(4)
        ]
        order = torch.cat(dealt)
        weight = torch.zeros(width, width)
        weight[torch.arange(width), order] = sharpness**0.5
        with torch.no_grad():
            for projection in (self.where_query, self.where_key):
                projection.weight.copy_(weight)
                projection.bias.zero_()
            self.where_scale.last.weight.mul_(0.1)
            self.where_scale.last.bias.fill_(1.0)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, pyramid: Pyramid, probe: Probe | None = None
    ) -> Tensor:
        """Attend from queries [B, Q, D] with reference boxes_cxcywh [B, Q, 4] to tokens [B, S, D]: [B, Q, D].

        `position` is not used: the spatial half of the score takes its place.
        """
        centre = sine_coordinates(reference[..., :2], x.shape[-1] // 2).to(x.dtype)  # [B, Q, D]
        where_query = self.where_query(centre * self.where_scale(x))  # [B, Q, D]
        where_key = self.where_key(pyramid.position).expand_as(pyramid.tokens)  # [B, S, D]
        mixed = attend(
            self._concatenate(self.query(x), where_query),
            self._concatenate(self.key(pyramid.tokens), where_key),
            self.value(pyramid.tokens),
            heads=self.heads,
            site=self.site,
            padding=pyramid.padding,
            probe=probe,
        )
        return cast(Tensor, self.output(mixed))

    def _concatenate(self, content: Tensor, spatial: Tensor) -> Tensor:
        """Concatenate content and spatial halves within each head: twice [B, n, h*d] -> [B, n, h*2d]."""
        shape = (*content.shape[:2], self.heads, -1)
        parts = [part.reshape(shape) for part in (content, spatial)]  # [B, n, h, d]
        return torch.cat(parts, dim=-1).flatten(-2)
