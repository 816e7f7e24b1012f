"""Attention metrics: concentration, distance, mass in a region, agreement of heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(rows: Tensor) -> Tensor:
    """Return the Shannon entropy of each row in nats: [..., S] -> [...].

    A row that does not sum to 1 (deformable points outside the image) is divided by its sum.
    """
    p = _distribution(rows)
    spread: Tensor = -torch.special.xlogy(p, p).sum(-1)
    return spread


def effective_tokens(rows: Tensor) -> Tensor:
    """Return the effective number of tokens, exp of the entropy: 1 to S, which is uniform. [..., S] -> [...]."""
    return entropy(rows).exp()


def mean_distance(rows: Tensor, start: Tensor, centres: Tensor) -> Tensor:
    """Return the mean attention distance, in the unit of the positions.

    Dosovitskiy et al. 2021 (arXiv:2010.11929, section 4.5 and appendix D.7).

    Args:
        rows: [h, n, S]; divided by their sums.
        start: [n, 2] x, y of the n rows.
        centres: [S, 2] x, y of the keys.

    Returns:
        [h, n].
    """
    return (_distribution(rows) * torch.cdist(start, centres)).sum(-1)


def head_agreement(rows: Tensor) -> Tensor:
    """Return how much the heads of a site agree, 0..1: [h, n, S] -> [n].

    One less the Jensen-Shannon divergence of the heads' rows (Lin 1991, equation 5.1, equal weights), entropy of the
    mean less mean of the entropies, divided by its greatest value log h: 1 where all heads are equal, 0 where no
    two of them share a token. 1 for a single head.
    """
    if len(rows) == 1:
        return rows.new_ones(rows.shape[1])
    p = _distribution(rows)
    divergence = entropy(p.mean(0)) - entropy(p).mean(0)
    return (1 - divergence / math.log(len(rows))).clamp(0, 1)


def mass_in(rows: Tensor, cover: Tensor) -> Tensor:
    """Return the mass of each row in a region: [..., S] and the share of each cell that it covers [..., S] -> [...]."""
    return (rows * cover).sum(-1)


def points_into(rows: Tensor, centres: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Play the pointing game (Zhang et al. 2016, arXiv:1608.00507), without its tolerance of 15 pixels.

    Args:
        rows: [h, n, S].
        centres: [S, 2] x, y.
        boxes_xyxy: [n, 4] in the same unit.

    Returns:
        [h, n] bool: whether the centre of the token of the greatest weight lies in the box.
    """
    peak = centres[rows.argmax(-1)]  # [h, n, 2]
    return ((peak >= boxes_xyxy[:, :2]) & (peak <= boxes_xyxy[:, 2:])).all(-1)


def _distribution(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
