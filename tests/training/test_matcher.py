"""Matching of queries with boxes: costs, assignment, one to many."""

from __future__ import annotations

import itertools

import pytest
import torch

from detrscope.core.types import Outputs, Target
from detrscope.training.matcher import FocalCost, Matcher, SoftmaxCost, one_to_many
from detrscope.training.nonfinite import NonFinite


def predictions(layers: int, images: int, queries: int, classes: int = 5) -> Outputs:
    return Outputs(
        torch.randn(layers, images, queries, classes), torch.rand(layers, images, queries, 4) * 0.5 + 0.2
    )


def ground_truth(*counts: int, classes: int = 4) -> list[Target]:
    return [Target(torch.randint(0, classes, (m,)), torch.rand(m, 4) * 0.5 + 0.2) for m in counts]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def slow_cost(logits: torch.Tensor, box: torch.Tensor, label: int, wanted: torch.Tensor) -> float:
    """Equation 2 for one query and one box, number by number."""
    (cx, cy, w, h), (tx, ty, tw, th) = box.tolist(), wanted.tolist()
    a, b = (
        (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2),
        (tx - tw / 2, ty - th / 2, tx + tw / 2, ty + th / 2),
    )
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = w * h + tw * th - inner
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    giou = inner / union - (hull - union) / hull
    l1 = sum(abs(p - t) for p, t in zip(box.tolist(), wanted.tolist(), strict=True))
    return -float(logits.softmax(-1)[label]) + 5 * l1 - 2 * giou


def test_cost_is_equation_2() -> None:
    outputs, targets = predictions(2, 2, 3), ground_truth(2, 1)
    cost = Matcher(SoftmaxCost()).cost(outputs, targets)
    assert cost.shape == (2, 2, 2, 3)
    for n, b, q in itertools.product(range(2), range(2), range(3)):
        for m in range(len(targets[b].labels)):
            wanted = slow_cost(
                outputs.logits[n, b, q],
                outputs.boxes_cxcywh[n, b, q],
                int(targets[b].labels[m]),
                targets[b].boxes_cxcywh[m],
            )
            assert float(cost[n, b, m, q]) == pytest.approx(wanted, abs=1e-5)


def test_assignment_is_the_cheapest() -> None:
    outputs, targets = predictions(3, 2, 5), ground_truth(3, 2)
    matcher = Matcher(SoftmaxCost())
    matches, cost = matcher(outputs, targets), matcher.cost(outputs, targets)
    first = [0, 3]
    for n, b in itertools.product(range(3), range(2)):
        mine = matches.images == b
        queries, rows = matches.queries[n, mine], matches.targets[n, mine] - first[b]
        m = len(targets[b].labels)
        assert sorted(rows.tolist()) == list(range(m)) and len(set(queries.tolist())) == m
        best = min(
            sum(float(cost[n, b, i, q]) for i, q in enumerate(p)) for p in itertools.permutations(range(5), m)
        )
        assert float(cost[n, b, rows, queries].sum()) == pytest.approx(best, abs=1e-5)


def test_images_without_boxes_or_with_more_boxes_than_queries() -> None:
    outputs, targets = predictions(2, 3, 4), ground_truth(0, 6, 2)
    matches = Matcher(SoftmaxCost())(outputs, targets)
    assert matches.images.tolist() == [1, 1, 1, 1, 2, 2]
    assert matches.queries.shape == matches.targets.shape == (2, 6)
    assert sorted(matches.queries[0, :4].tolist()) == [0, 1, 2, 3]
    assert set(matches.targets[0, :4].tolist()) <= set(range(6))
    assert sorted(matches.targets[1, 4:].tolist()) == [6, 7]


def test_a_batch_without_any_box() -> None:
    matches = Matcher(SoftmaxCost())(predictions(2, 2, 4), ground_truth(0, 0))
    assert matches.images.shape == (0,) and matches.queries.shape == matches.targets.shape == (2, 0)


def test_matching_is_independent_of_the_other_images() -> None:
    outputs, targets = predictions(2, 3, 6), ground_truth(2, 0, 4)
    together = Matcher(SoftmaxCost())(outputs, targets)
    alone = Matcher(SoftmaxCost())(Outputs(outputs.logits[:, 2:], outputs.boxes_cxcywh[:, 2:]), targets[2:])
    assert together.queries[:, together.images == 2].equal(alone.queries)


def test_a_cost_that_is_not_finite_names_layer_and_images() -> None:
    outputs, targets = predictions(3, 3, 4), ground_truth(1, 2, 1)
    outputs.boxes_cxcywh[1, 2, 0, 0] = float("nan")
    with pytest.raises(
        NonFinite, match="matching cost of decoder layer 1 is not finite for image 2"
    ) as caught:
        Matcher(SoftmaxCost())(outputs, targets)
    assert caught.value.rows == (2,)


def test_costs_move_to_the_cpu_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[int, ...]] = []
    real = torch.Tensor.cpu

    def counted(self: torch.Tensor) -> torch.Tensor:
        moves.append(tuple(self.shape))
        return real(self)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    Matcher(SoftmaxCost())(predictions(6, 4, 10), ground_truth(3, 1, 0, 2))
    assert moves == [(6, 4, 3, 10)]  # per image: no axis pairs one image with another


def test_focal_cost_prefers_the_confident_query() -> None:
    logits = torch.tensor([[[[3.0, -3.0], [-3.0, 0.0]]]])  # [N, B, Q, K]
    cost = FocalCost()(logits, torch.tensor([[0, 1]]))  # [N, B, M, Q]
    assert cost.shape == (1, 1, 2, 2)
    assert cost[0, 0, 0, 0] < cost[0, 0, 0, 1] and cost[0, 0, 1, 1] < cost[0, 0, 1, 0]


NO_BOXES = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


def test_one_to_many_matches_the_middle_and_the_nearest_token() -> None:
    y, x = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(8) + 0.5) / 8, indexing="ij")
    centres = torch.stack([x, y], -1).view(1, -1, 2)
    small = Target(torch.tensor([0, 1]), torch.tensor([[0.5, 0.5, 0.8, 0.8], [0.5, 0.5, 0.01, 0.01]]))
    pairs = one_to_many(centres, [small, NO_BOXES])
    assert set(pairs.images.tolist()) == {0}
    at = centres[0, pairs.queries[0]]
    assert bool(((at - 0.5).abs() < 0.3 * 0.8).logical_or(pairs.targets[0][:, None] == 1).all())
    assert (pairs.targets[0] == 1).sum() == 1, "the tiny box has its nearest token and wins it"
    assert (pairs.targets[0] == 0).sum() == 15
    empty = one_to_many(centres, [NO_BOXES])
    assert empty.queries.shape == (1, 0)
