"""Query sets beside the model's own: proposals, dense proposals, denoising queries."""

from __future__ import annotations

import pytest
import torch

from detrscope.core.types import Outputs, Proposals, Target
from detrscope.training.denoising import Noise, make_denoising
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import MatchabilityLoss
from detrscope.training.losses.criterion import SetCriterion
from detrscope.training.matcher import FocalCost, Matcher

TARGETS = [
    Target(torch.tensor([0, 2]), torch.tensor([[0.25, 0.25, 0.3, 0.2], [0.7, 0.6, 0.4, 0.5]])),
    Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.9, 0.9]])),
]


@pytest.mark.parametrize("groups", [0, 2])
def test_terms_of_all_query_sets_add_up(groups: int) -> None:
    torch.manual_seed(0)
    criterion = SetCriterion(
        Matcher(FocalCost(), 2, 5, 2), (MatchabilityLoss(), BoxL1(), BoxGIoU()), "sigmoid"
    )
    noisy = make_denoising(TARGETS, Noise(groups, 0.4, 0.2), 3, range(len(TARGETS)))
    extra = 0 if noisy is None else noisy.labels.shape[1]
    proposals = Proposals(
        torch.randn(3, 16, 3),
        torch.rand(3, 16, 4) * 0.5,
        torch.rand(1, 16, 2),
        torch.randn(3, 16, 3),
        torch.rand(3, 16, 4) * 0.5,
    )
    logits = torch.randn(2, 3, 5 + extra, 3, requires_grad=True)
    outputs = Outputs(logits, torch.rand(2, 3, 5 + extra, 4) * 0.5, proposals)
    losses = criterion(outputs, TARGETS, denoising=noisy)
    names = {"loss_class", "loss_class_0", "loss_class_proposals", "loss_class_dense"}
    names |= {"loss_class_denoising"} if groups else set()
    assert {n for n in losses.terms if n.startswith("loss_class")} == names
    torch.testing.assert_close(losses.total.detach(), torch.stack(list(losses.terms.values())).sum())
    losses.total.backward()
    assert logits.grad is not None
    if noisy is not None:  # places that stand for no box learn nothing
        real = torch.zeros(3, extra, dtype=torch.bool)
        real[noisy.images, noisy.queries] = True
        assert logits.grad[:, :, :extra][:, ~real].abs().max() == 0
