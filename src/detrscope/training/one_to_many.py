"""Which tokens answer for which box when many may: those in the middle of it, and the one nearest to its centre."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrscope.core.types import Target
from detrscope.training.matcher import Matches

MIDDLE = 0.3  # of the box's size on each side of its centre


def one_to_many(centres: Tensor, targets: Sequence[Target]) -> Matches:
    """Pairs of token and box, in one layer.

    A token whose centre lies in the middle 60% of several boxes answers for the smallest. Every box gets its nearest
    token, so that small boxes are not left out.

    Args:
        centres: [B or 1, S, 2] centres of the tokens, x and y in 0..1.
        targets: the truth of each of the B images.
    """
    images, tokens, boxes = [], [], []
    first = 0
    for b, target in enumerate(targets):
        count = len(target.labels)
        if count:
            at = centres[b if len(centres) > 1 else 0]  # [S, 2]
            centre, size = target.boxes_cxcywh[:, :2], target.boxes_cxcywh[:, 2:]  # [M, 2] each
            apart = (at[:, None] - centre).abs() / size.clamp(min=1e-6)  # [S, M, 2] in box sizes
            inside = apart.amax(-1) < MIDDLE  # [S, M]
            inside[apart.sum(-1).argmin(0), torch.arange(count, device=at.device)] = True
            area = size.prod(-1).expand_as(inside).masked_fill(~inside, float("inf"))
            token = inside.any(1).nonzero()[:, 0]
            tokens.append(token)
            boxes.append(area[token].argmin(1) + first)
            images.append(torch.full_like(token, b))
        first += count
    if not tokens:
        empty = torch.zeros(0, dtype=torch.int64, device=centres.device)
        return Matches(empty, empty[None], empty[None])
    return Matches(torch.cat(images), torch.cat(tokens)[None], torch.cat(boxes)[None])
