"""Class costs and losses for models whose classes are independent: one sigmoid each, no "no object"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detrscope.training.losses.criterion import NO_OBJECT, AssignedTargets

EPS = 1e-8


@dataclass(frozen=True)
class FocalCost:
    """How much the focal loss would fall if the query took the class (Deformable DETR, arXiv:2010.04159)."""

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of each label for each query: logits [N, B, Q, K], labels [B, M] -> [N, B, M, Q]."""
        layers, images, queries, _ = logits.shape
        index = labels[None, :, None, :].expand(layers, images, queries, labels.shape[1])
        p = logits.gather(3, index).sigmoid().transpose(-1, -2)  # [N, B, M, Q]
        taken = self.alpha * (1 - p) ** self.gamma * -(p + EPS).log()
        refused = (1 - self.alpha) * p**self.gamma * -(1 - p + EPS).log()
        return taken - refused


@dataclass(frozen=True)
class FocalLoss:
    """Binary cross-entropy that looks away from what is easy (Lin et al. 2017, arXiv:1708.02002, equation 5)."""

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, logits: Tensor, assigned: AssignedTargets) -> Tensor:
        """The loss of each layer divided by the number of boxes: logits [N, B, Q, K] -> [N]."""
        wanted = _one_hot(assigned.labels, logits)  # [N, B, Q, K]
        p = logits.sigmoid()
        weight = torch.where(wanted > 0, self.alpha * (1 - p) ** self.gamma, (1 - self.alpha) * p**self.gamma)
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (each * weight).sum((1, 2, 3)) / assigned.totals.boxes

    def predicted_objects(self, logits: Tensor) -> Tensor:
        """How many queries claim to see an object: logits [B, Q, K] -> [B]."""
        return _confident(logits)


@dataclass(frozen=True)
class MatchabilityLoss:
    """Matchability-aware: a matched query shall score its class as high as its box overlaps the true one.

    DEIM (Huang et al. 2024, arXiv:2412.04234, section 3.3), with the overlap itself as the target and a query without
    an object weighed by its probability squared.
    """

    negatives: float = 0.75
    least: float = 0.01  # no matched query is told that it sees nothing

    def __call__(self, logits: Tensor, assigned: AssignedTargets) -> Tensor:
        """The loss of each layer divided by the number of boxes: logits [N, B, Q, K] -> [N]."""
        matched = _one_hot(assigned.labels, logits)  # [N, B, Q, K]
        wanted = matched * assigned.iou.clamp(min=self.least)[..., None]
        weight = torch.where(matched > 0, 1.0, self.negatives * logits.detach().sigmoid() ** 2)
        each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return (each * weight).sum((1, 2, 3)) / assigned.totals.boxes

    def predicted_objects(self, logits: Tensor) -> Tensor:
        """How many queries claim to see an object: logits [B, Q, K] -> [B]."""
        return _confident(logits)


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """1 at the class of each matched query: labels [N, B, Q] -> [N, B, Q, K]."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    assert NO_OBJECT < 0, "no class index may stand for no object"
    return (labels[..., None] == classes).to(logits.dtype)


def _confident(logits: Tensor) -> Tensor:
    return (logits.amax(-1) > 0).sum(-1)
