"""What makes sprints learn fast, part by part: Muon, denoising, one-to-many pairs, sigmoid losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detrscope.core.types import Batch, Outputs, Proposals, Queries, Target
from detrscope.families import sprint
from detrscope.training import muon
from detrscope.training.denoising import Noise, make_denoising
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import FocalLoss, MatchabilityLoss
from detrscope.training.losses.criterion import NO_OBJECT, LossNormalizers, MatchedPredictions, SetCriterion
from detrscope.training.losses.query_sets import QuerySet
from detrscope.training.matcher import FocalCost, Matcher, Matches, one_to_many
from detrscope.training.muon import Muon, orthogonalise

TARGETS = [
    Target(torch.tensor([0, 2]), torch.tensor([[0.25, 0.25, 0.3, 0.2], [0.7, 0.6, 0.4, 0.5]])),
    Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)),
    Target(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.9, 0.9]])),
]


def matched(logits: Tensor, labels: Tensor, iou: Tensor, boxes: float) -> MatchedPredictions:
    """Predictions [N, B, Q, K] matched with `labels` [N, B, Q]; terms of classes read nothing else."""
    total, empty = torch.tensor(boxes), torch.zeros(0, dtype=torch.int64)
    query_set = QuerySet("", Outputs(logits, torch.zeros(0)), [], Matches(empty, empty, empty))
    normalizers = LossNormalizers(total, total, total)
    return MatchedPredictions(
        logits, labels, iou, torch.zeros(0), torch.zeros(0), torch.zeros(0), normalizers, query_set
    )


def test_orthogonalise_gives_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for x in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(x, steps=5).float())
        assert values.min() > 0.5 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    likeness = torch.nn.functional.cosine_similarity(
        orthogonalise(matrices, 5).flatten(1), (u @ v).flatten(1)
    )
    assert likeness.min() > 0.97


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 144, 16), (2, 16, 40)])
@pytest.mark.parametrize("steps", [1, 4])
def test_wide_matrices_iterate_on_their_small_side_to_the_same_result(
    shape: tuple[int, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "iteration_dtype", lambda device: torch.float32)
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices, steps)
    monkeypatch.setattr(muon, "WIDE", 1000)
    torch.testing.assert_close(found, orthogonalise(matrices, steps), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("slowdown", "dtype"), [(0.3, torch.bfloat16), (13.0, torch.float32)])
def test_muon_iterates_in_what_the_machine_multiplies_fast(
    slowdown: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "product_slowdown", lambda _: slowdown)
    assert muon.iteration_dtype(torch.device("cpu")) == dtype
    assert muon.iteration_dtype(torch.device("cuda")) == torch.bfloat16


def test_muon_moves_its_groups_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    matrix, bias = torch.nn.Parameter(torch.randn(32, 16)), torch.nn.Parameter(torch.randn(16))
    twin = torch.nn.Parameter(bias.detach().clone())
    start = matrix.detach().clone()
    groups = [
        {"params": [matrix], "lr": 0.1, "weight_decay": 0.0, "orthogonal": True},
        {"params": [bias], "lr": 0.01, "weight_decay": 0.1, "orthogonal": False},
    ]
    muon, adamw = Muon(groups), torch.optim.AdamW([twin], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        matrix.grad, bias.grad, twin.grad = torch.randn(32, 16), torch.ones(16), torch.ones(16)
        muon.step()
        adamw.step()
    assert torch.equal(bias, twin)
    assert set(muon.state[matrix]) == {"momentum", "step"}
    moved = (matrix - start).detach()
    per_step = 0.1 * 0.2 * 32**0.5 / 32**0.5  # root mean square of an orthogonal 32 x 16 matrix is 1/sqrt(32)
    assert 0.3 * per_step < moved.square().mean().sqrt() < 3.5 * per_step
    state = muon.state_dict()
    again = Muon(
        [{**g, "params": [torch.nn.Parameter(p.detach().clone()) for p in g["params"]]} for g in groups]
    )
    again.load_state_dict(state)
    assert [g["orthogonal"] for g in again.param_groups] == [True, False]


def test_focal_loss_equals_torchvision() -> None:
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 3, 5), NO_OBJECT)
    labels[0, 1, 2], labels[1, 0, 4] = 3, 0
    wanted = torch.zeros_like(logits)
    wanted[0, 1, 2, 3], wanted[1, 0, 4, 0] = 1, 1
    expected = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0).sum((1, 2, 3)) / 2
    torch.testing.assert_close(FocalLoss()(matched(logits, labels, torch.zeros(2, 3, 5), 2.0)), expected)


def test_overlap_loss_is_least_where_the_score_is_the_overlap() -> None:
    labels = torch.tensor([[[0, NO_OBJECT]]])
    iou = torch.tensor([[[0.8, 0.0]]])

    def loss(score: float, other: float) -> float:
        logits = torch.logit(torch.tensor([[[[score, 1e-6], [other, 1e-6]]]]))
        return float(MatchabilityLoss()(matched(logits, labels, iou, 1.0)))

    assert loss(0.8, 0.01) < loss(0.7, 0.01) and loss(0.8, 0.01) < loss(0.9, 0.01)
    assert loss(0.8, 0.01) < loss(0.8, 0.5)


def test_focal_cost_prefers_the_confident_query() -> None:
    logits = torch.tensor([[[[3.0, -3.0], [-3.0, 0.0]]]])  # [N, B, Q, K]
    cost = FocalCost()(logits, torch.tensor([[0, 1]]))  # [N, B, M, Q]
    assert cost.shape == (1, 1, 2, 2)
    assert cost[0, 0, 0, 0] < cost[0, 0, 0, 1] and cost[0, 0, 1, 1] < cost[0, 0, 1, 0]


def test_one_to_many_takes_the_middle_and_the_nearest() -> None:
    y, x = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(8) + 0.5) / 8, indexing="ij")
    centres = torch.stack([x, y], -1).view(1, -1, 2)
    small = Target(torch.tensor([0, 1]), torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.5, 0.5, 0.01, 0.01]]))
    pairs = one_to_many(centres, [small, TARGETS[1]])
    assert set(pairs.images.tolist()) == {0}
    at = centres[0, pairs.queries[0]]
    assert bool(((at - 0.5).abs() < 0.3 * 0.8).logical_or(pairs.targets[0][:, None] == 1).all())
    assert (pairs.targets[0] == 1).sum() == 1, "the tiny box has its nearest token and wins it"
    assert (pairs.targets[0] == 0).sum() == 15
    empty = one_to_many(centres, [TARGETS[1]])
    assert empty.queries.shape == (1, 0)


def test_denoising_disturbs_within_its_bounds_and_knows_its_truth() -> None:
    torch.manual_seed(0)
    noisy = make_denoising(TARGETS, Noise(groups=3, box=0.4, label=0.0), classes=3)
    assert noisy is not None
    assert noisy.labels.shape == (3, 6) and noisy.boxes_cxcywh.shape == (3, 6, 4)
    assert len(noisy.images) == 3 * 3, "three boxes, three copies"
    truth = torch.cat([t.boxes_cxcywh for t in TARGETS])[noisy.targets]
    labels = torch.cat([t.labels for t in TARGETS])[noisy.targets]
    found = noisy.boxes_cxcywh[noisy.images, noisy.queries]
    assert torch.equal(noisy.labels[noisy.images, noisy.queries], labels)
    apart = (found - truth).abs() / truth[:, 2:].repeat(1, 2)
    assert 0 < apart.max() <= 0.4 + 1e-6
    assert bool((noisy.mask == (torch.arange(6)[:, None] // 2 != torch.arange(6)[None] // 2)).all())
    assert make_denoising([TARGETS[1]], Noise(3, 0.4, 0.0), classes=3) is None


def test_denoising_and_own_queries_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    model = sprint.build(sprint.SprintConfig(width=32), classes=3).eval()
    noisy = make_denoising(TARGETS, Noise(2, 0.4, 0.2), classes=3)
    assert noisy is not None
    batch = Batch(torch.randn(3, 3, 64, 64))
    with torch.no_grad():
        extra = model.training_support.denoising.queries(noisy.labels, noisy.boxes_cxcywh, noisy.mask)
        with_them, without = model(batch, extra=extra), model(batch)
    own = with_them.logits[:, :, noisy.labels.shape[1] :]
    torch.testing.assert_close(own, without.logits, atol=1e-5, rtol=1e-5)


def test_join_masks_both_sides() -> None:
    own = Queries(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    mask = torch.tensor([[False, True], [True, False]])
    joined = own.join(Queries(torch.ones(1, 2, 4), torch.zeros(1, 2, 4), mask=mask))
    assert joined.mask is not None
    assert torch.equal(joined.mask[:2, :2], mask) and not joined.mask[2:, 2:].any()
    assert joined.mask[:2, 2:].all() and joined.mask[2:, :2].all()


@pytest.mark.parametrize("groups", [0, 2])
def test_all_sets_are_judged_and_add_up(groups: int) -> None:
    torch.manual_seed(0)
    criterion = SetCriterion(
        Matcher(FocalCost(), 2, 5, 2), (MatchabilityLoss(), BoxL1(), BoxGIoU()), "sigmoid"
    )
    noisy = make_denoising(TARGETS, Noise(groups, 0.4, 0.2), classes=3)
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
