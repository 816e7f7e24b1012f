"""Mask terms of the loss at points, of every decoder layer (RF-DETR; Mask2Former, arXiv:2112.01527, section 3.3).

A pair whose object has no mask, or none of whose pixels is left in the image, takes no part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from detrscope.training.losses.criterion import MatchedPredictions


@dataclass(frozen=True, kw_only=True)
class PointCrossEntropy:
    """Cross-entropy at points of each mask, their mean, divided by the number of boxes."""

    name: str = "loss_mask"
    weight: float = 1.0

    def __call__(self, matched: MatchedPredictions) -> Tensor | None:
        """Return the loss of each layer, [N]; None where masks are no products."""
        if (points := matched.mask_points) is None:
            return None
        each = F.binary_cross_entropy_with_logits(points.logits, points.masks, reduction="none").mean(-1)
        return (each * points.known).sum(1) / matched.normalizers.boxes


@dataclass(frozen=True, kw_only=True)
class PointDice:
    """One minus the Dice coefficient of the points of each mask, divided by the number of boxes."""

    name: str = "loss_dice"
    weight: float = 1.0

    def __call__(self, matched: MatchedPredictions) -> Tensor | None:
        """Return the loss of each layer, [N]; None where masks are no products."""
        if (points := matched.mask_points) is None:
            return None
        p = points.logits.sigmoid()
        both = 2 * (p * points.masks).sum(-1) + 1  # [N, P]
        sizes = p.sum(-1) + points.masks.sum(-1) + 1
        return ((1 - both / sizes) * points.known).sum(1) / matched.normalizers.boxes
