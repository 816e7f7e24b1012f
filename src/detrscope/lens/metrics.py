"""What attention is like, in numbers: how concentrated, how far, how much where, how alike its heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(rows: Tensor) -> Tensor:
    """Shannon entropy of each row in nats: [..., S] -> [...].

    Of a row that does not sum to 1 (deformable points outside) it is that of the row divided by its sum.
    """
    p = _distribution(rows)
    return -torch.special.xlogy(p, p).sum(-1)


def effective_tokens(rows: Tensor) -> Tensor:
    """How many tokens a row looks at: exp of its entropy, 1 for a single one, S for all alike. [..., S] -> [...]."""
    return entropy(rows).exp()


def mean_distance(rows: Tensor, start: Tensor, centres: Tensor) -> Tensor:
    """Mean distance of what is looked at from where the looker is, in the unit of the places.

    The mean attention distance of Dosovitskiy et al. 2021 (arXiv:2010.11929, section 4.5 and appendix D.7).

    Args:
        rows: [h, n, S]; divided by their sums.
        start: [n, 2] x, y of the n lookers.
        centres: [S, 2] x, y of what can be looked at.

    Returns:
        [h, n].
    """
    return (_distribution(rows) * torch.cdist(start, centres)).sum(-1)


def agreement(rows: Tensor) -> Tensor:
    """How alike the heads of a site look, 0..1: [h, n, S] -> [n].

    One less the Jensen-Shannon divergence of the heads' rows (Lin 1991, equation 5.1, equal weights), entropy of the
    mean less mean of the entropies, divided by its greatest value log h: 1 where all heads look the same, 0 where no
    two of them look at the same token. 1 for a single head.
    """
    if len(rows) == 1:
        return rows.new_ones(rows.shape[1])
    p = _distribution(rows)
    divergence = entropy(p.mean(0)) - entropy(p).mean(0)
    return (1 - divergence / math.log(len(rows))).clamp(0, 1)


def mass_in(rows: Tensor, cover: Tensor) -> Tensor:
    """How much of each row lies on places: [..., S] and the part of each cell that they cover [..., S] -> [...]."""
    return (rows * cover).sum(-1)


def points_into(rows: Tensor, centres: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """The pointing game (Zhang et al. 2016, arXiv:1608.00507, section 4.1), without its tolerance of 15 pixels.

    Args:
        rows: [h, n, S].
        centres: [S, 2] x, y.
        boxes_xyxy: [n, 4] in the same unit.

    Returns:
        [h, n] bool: whether the middle of the token looked at most lies in the box.
    """
    place = centres[rows.argmax(-1)]  # [h, n, 2]
    return ((place >= boxes_xyxy[:, :2]) & (place <= boxes_xyxy[:, 2:])).all(-1)


def _distribution(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
