"""Conditional cross-attention: what a query looks for and where it looks are compared apart.

Conditional DETR (Meng et al. 2021, arXiv:2108.06152, section 3.2), with reference boxes as in DAB-DETR
(arXiv:2201.12329): the content halves and the spatial halves of query and key are concatenated within each head, so
that the score is the sum of the two. The spatial projections start equal: from the first step on, a query attends
around its reference box.
"""

from __future__ import annotations

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
        site: the name of this place along the path.
        sharpness: scale of the scores between places at the start; attention begins local around the box's centre.
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
        """Deal the frequencies of both coordinates to the heads evenly, sines with their cosines, on both sides alike.

        Then the score between two places is a sum of cosines of their distance, greatest at distance 0.
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
        self, x: Tensor, position: Tensor, boxes: Tensor, pyramid: Pyramid, probe: Probe | None = None
    ) -> Tensor:
        """Queries [B, Q, D] with boxes_cxcywh [B, Q, 4] over the pyramid's tokens [B, S, D] -> [B, Q, D]."""
        place = sine_coordinates(boxes[..., :2], x.shape[-1] // 2).to(x.dtype)  # [B, Q, D]
        where_query = self.where_query(place * self.where_scale(x))  # [B, Q, D]
        where_key = self.where_key(pyramid.position).expand_as(pyramid.tokens)  # [B, S, D]
        mixed = attend(
            self._both(self.query(x), where_query),
            self._both(self.key(pyramid.tokens), where_key),
            self.value(pyramid.tokens),
            heads=self.heads,
            site=self.site,
            padding=pyramid.padding,
            probe=probe,
        )
        return self.output(mixed)

    def _both(self, content: Tensor, where: Tensor) -> Tensor:
        """Content and place side by side within each head: twice [B, n, h*d] -> [B, n, h*2d]."""
        parts = [part.unflatten(-1, (self.heads, -1)) for part in (content, where)]  # [B, n, h, d]
        return torch.cat(parts, dim=-1).flatten(-2)
