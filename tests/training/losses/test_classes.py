"""Class terms of the loss for sigmoid scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detrscope.core.types import Outputs
from detrscope.training.losses.classes import FocalLoss, MatchabilityLoss
from detrscope.training.losses.criterion import NO_OBJECT, LossNormalizers, MatchedPredictions
from detrscope.training.losses.query_sets import QuerySet
from detrscope.training.matcher import Matches


def matched(logits: Tensor, labels: Tensor, iou: Tensor, boxes: float) -> MatchedPredictions:
    """Predictions [N, B, Q, K] matched with `labels` [N, B, Q]; terms of classes read nothing else."""
    total, empty = torch.tensor(boxes), torch.zeros(0, dtype=torch.int64)
    query_set = QuerySet("", Outputs(logits, torch.zeros(0)), [], Matches(empty, empty, empty))
    normalizers = LossNormalizers(total, total, total)
    none = torch.zeros(0)
    return MatchedPredictions(
        logits, labels, iou, none, none, none, none, (empty, empty, empty), total, 1.0, normalizers, query_set
    )


def test_focal_loss_equals_torchvision() -> None:
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 3, 5), NO_OBJECT)
    labels[0, 1, 2], labels[1, 0, 4] = 3, 0
    wanted = torch.zeros_like(logits)
    wanted[0, 1, 2, 3], wanted[1, 0, 4, 0] = 1, 1
    expected = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0).sum((1, 2, 3)) / 2
    torch.testing.assert_close(FocalLoss()(matched(logits, labels, torch.zeros(2, 3, 5), 2.0)), expected)


def test_matchability_loss_is_least_where_the_score_is_the_iou() -> None:
    labels = torch.tensor([[[0, NO_OBJECT]]])
    iou = torch.tensor([[[0.8, 0.0]]])

    def loss(score: float, other: float) -> float:
        logits = torch.logit(torch.tensor([[[[score, 1e-6], [other, 1e-6]]]]))
        return float(MatchabilityLoss()(matched(logits, labels, iou, 1.0)))

    assert loss(0.8, 0.01) < loss(0.7, 0.01) and loss(0.8, 0.01) < loss(0.9, 0.01)
    assert loss(0.8, 0.01) < loss(0.8, 0.5)
