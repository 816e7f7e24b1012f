"""Class terms of the loss: cross-entropy with "no object", or one sigmoid per class (focal, matchability-aware)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.training.losses.criterion import NO_OBJECT, MatchedPredictions


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy over classes and "no object" (the last logit), down-weighted since most queries have none.

    A weighted mean: divided by the sum of the weights, not by the number of queries.
    """

    name: str = "loss_class"
    weight: float = 1.0
    no_object: float = 0.1  # weight of a query without an object (DETR, section 3.1)

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer, [N]."""
        layers, _, _, classes = matched.logits.shape
        empty = matched.labels == NO_OBJECT  # [N, B, Q]
        labels = matched.labels.masked_fill(empty, classes - 1)
        each = F.cross_entropy(matched.logits.flatten(0, 2), labels.flatten(), reduction="none")
        each = each.view_as(labels)  # [N, B, Q]
        weighted = torch.where(empty, each * self.no_object, each).view(layers, -1).sum(1)  # [N]
        return weighted / (matched.normalizers.matched + self.no_object * matched.normalizers.unmatched)


@dataclass(frozen=True, kw_only=True)
class FocalLoss:
    """Focal loss: down-weights easy examples (Lin et al. 2017, arXiv:1708.02002, equation 5)."""

    name: str = "loss_class"
    weight: float = 1.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer divided by the number of boxes, [N]."""
        labels = _one_hot(matched)  # [N, B, Q, K]
        p = matched.logits.sigmoid()
        weight = torch.where(labels > 0, self.alpha * (1 - p) ** self.gamma, (1 - self.alpha) * p**self.gamma)
        each = F.binary_cross_entropy_with_logits(matched.logits, labels, reduction="none")
        return (each * weight).sum((1, 2, 3)) / matched.normalizers.boxes


@dataclass(frozen=True, kw_only=True)
class MatchabilityLoss:
    """Matchability-aware loss: the target score of a matched query is the IoU of its box with the ground-truth box.

    DEIM (Huang et al. 2024, arXiv:2412.04234, section 3.3), with the IoU itself as the target, and queries without an
    object weighted by their squared probability.
    """

    name: str = "loss_class"
    weight: float = 1.0
    negatives: float = 0.75  # weight of queries without an object
    least: float = 0.01  # lower bound of a matched query's IoU target

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer divided by the number of boxes, [N]."""
        positive = _one_hot(matched)  # [N, B, Q, K]
        scores = positive * matched.iou.clamp(min=self.least)[..., None]
        weight = torch.where(positive > 0, 1.0, self.negatives * matched.logits.detach().sigmoid() ** 2)
        each = F.binary_cross_entropy_with_logits(matched.logits, scores, reduction="none")
        return (each * weight).sum((1, 2, 3)) / matched.normalizers.boxes


@dataclass(frozen=True, kw_only=True)
class MatchingAwareLoss:
    """Matchability-aware loss as published: the target is a power of the IoU, others weigh that power of their score.

    DEIM (arXiv:2412.04234, section 3.3, equation 5).
    """

    name: str = "loss_class"
    weight: float = 1.0
    gamma: float = 1.5

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer divided by the number of boxes, [N]."""
        positive = _one_hot(matched)  # [N, B, Q, K]
        scores = (positive * matched.iou[..., None]) ** self.gamma
        weight = torch.where(positive > 0, 1.0, matched.logits.detach().sigmoid() ** self.gamma)
        each = F.binary_cross_entropy_with_logits(matched.logits, scores, reduction="none")
        return (each * weight).sum((1, 2, 3)) / matched.normalizers.boxes


@dataclass(frozen=True, kw_only=True)
class VarifocalLoss:
    """Varifocal loss: the target score of a matched query is its IoU, which is its weight too; others are focal.

    VarifocalNet (Zhang et al. 2020, arXiv:2008.13367, equation 2), as RT-DETR trains (arXiv:2304.08069, section 4.3).
    """

    name: str = "loss_class"
    weight: float = 1.0
    alpha: float = 0.75
    gamma: float = 2.0

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer divided by the number of boxes, [N]."""
        positive = _one_hot(matched)  # [N, B, Q, K]
        scores = positive * matched.iou[..., None]
        p = matched.logits.detach().sigmoid()
        weight = torch.where(positive > 0, scores, self.alpha * p**self.gamma)
        each = F.binary_cross_entropy_with_logits(matched.logits, scores, reduction="none")
        return (each * weight).sum((1, 2, 3)) / matched.normalizers.boxes


@dataclass(frozen=True, kw_only=True)
class IouAwareLoss:
    """IoU-aware binary cross-entropy: the target of a matched query mixes its score and IoU; others weigh by p squared.

    LW-DETR (arXiv:2406.03459, section 3.3), as Align-DETR (arXiv:2304.07527).
    """

    name: str = "loss_class"
    weight: float = 1.0
    alpha: float = 0.25  # exponent of the score in the target; that of the IoU is 1 - alpha
    gamma: float = 2.0
    least: float = 0.01  # lower bound of a matched query's target

    def __call__(self, matched: MatchedPredictions) -> Tensor:
        """Return the loss of each layer divided by the number of boxes, [N]."""
        positive = _one_hot(matched) > 0  # [N, B, Q, K]
        p = matched.logits.sigmoid()
        mixed = p.detach() ** self.alpha * matched.iou[..., None] ** (1 - self.alpha)
        scores = mixed.clamp(min=self.least)  # of matched queries
        rejected = torch.where(positive, 1 - scores, p**self.gamma)  # weight of the cross-entropy with 0
        each = torch.where(positive, -scores * F.logsigmoid(matched.logits), 0.0)
        each = each - rejected * F.logsigmoid(-matched.logits)
        return each.sum((1, 2, 3)) / matched.normalizers.boxes


def _one_hot(matched: MatchedPredictions) -> Tensor:
    """Return 1 at the class of each matched query, [N, B, Q, K]; NO_OBJECT is no class index."""
    classes = torch.arange(matched.logits.shape[-1], device=matched.logits.device)
    return (matched.labels[..., None] == classes).to(matched.logits.dtype)
