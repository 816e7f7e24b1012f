"""Where the decoder's queries come from."""

from __future__ import annotations

import torch
from torch import nn

from detrscope.core.types import Pyramid, Queries


class LearnedQueries(nn.Module):
    """DETR's object queries: learned positions, content zero (DETR, section 3.2)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Embedding(count, width)

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content and position [B, Q, D]."""
        position = self.position.weight.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=torch.zeros_like(position), position=position)


class LearnedContent(nn.Module):
    """Learned vectors that are the queries' content; no position (the minimal DETR)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.rand(count, width))

    def forward(self, pyramid: Pyramid) -> Queries:
        """The same Q queries for every image: content [B, Q, D], position zero."""
        content = self.content.expand(pyramid.tokens.shape[0], -1, -1)
        return Queries(content=content, position=content.new_zeros(1, 1, 1))
