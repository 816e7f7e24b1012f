"""Masks at points: read where they are, costs and losses of pairs that have them, no part of those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrscope.core.types import Batch, MaskFactors, Outputs, Target
from detrscope.training import mask_points
from detrscope.training.losses.criterion import Losses
from detrscope.training.losses.recipe import make_criterion, make_matcher
from detrscope.training.mask_points import MaskCost, masks_at_points, matched_mask_logits, uncertain_points
from detrscope.training.train_config import CostConfig, TrainConfig
from tests.support.tiny_models import tiny

QUERIES, SIDE, LAYERS = 6, 16, 2


def block(top: int, left: int) -> Tensor:
    """A mask of 32 x 32 pixels with a square of 12 in it."""
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[top : top + 12, left : left + 12] = True
    return mask


def targets() -> list[Target]:
    """Two images, with two objects and one, whose boxes are all the same: masks alone tell them apart."""
    box = torch.full((2, 4), 0.5)
    return [
        Target(torch.tensor([0, 0]), box, torch.stack([block(0, 0), block(20, 20)])),
        Target(torch.tensor([0]), box[:1], block(0, 20)[None]),
    ]


def predictions(sharpness: float = 20.0) -> Outputs:
    """Queries whose masks are: 0 and 1 nothing, 2 to 5 the four corners, at a quarter of the images' size."""
    corners = [(20, 20), (0, 20), (20, 0), (0, 0)]
    maps = torch.stack([block(*corner).float() * 2 - 1 for corner in corners])[None]  # [1, 4, 32, 32]
    pixels = torch.nn.functional.avg_pool2d(maps, 2).expand(2, -1, -1, -1) * sharpness  # [B, 4, 16, 16]
    queries = torch.cat([-torch.ones(2, 4), torch.eye(4)]).expand(LAYERS, 2, -1, -1)
    factors = MaskFactors(queries.clone().requires_grad_(), (pixels,) * LAYERS, torch.zeros(1))
    return Outputs(
        torch.zeros(LAYERS, 2, QUERIES, 3), torch.full((LAYERS, 2, QUERIES, 4), 0.5), mask_factors=factors
    )


def losses(outputs: Outputs, truth: list[Target]) -> Losses:
    torch.manual_seed(0)
    config = TrainConfig(cost=CostConfig(mask=5.0, dice=5.0))
    result: Losses = make_criterion(config, "sigmoid")(outputs, truth)
    return result


def test_points_read_the_pixel_they_lie_in() -> None:
    mask = torch.arange(6).reshape(1, 2, 3) == 5  # the last pixel of two rows and three columns
    target = Target(torch.tensor([0]), torch.full((1, 4), 0.5), mask)
    points = torch.tensor([[[0.99, 0.99], [0.68, 0.51], [0.65, 0.9], [0.9, 0.4]]])
    assert masks_at_points(target, points, (1.0, 1.0)).tolist() == [[True, True, False, False]]
    padded = points * torch.tensor(
        [0.5, 0.25]
    )  # x and y where half and a quarter of the batch's image is image
    assert masks_at_points(target, padded, (0.25, 0.5)).tolist() == [[True, True, False, False]]
    assert not masks_at_points(target, points, (0.25, 0.5)).any(), "padding is no object"


def test_three_of_four_points_lie_at_the_edge() -> None:
    logits = (torch.arange(32.0) - 15.5).expand(1, 32, 32)  # the edge runs down the middle
    torch.manual_seed(0)
    points = uncertain_points(logits)
    assert points.shape == (1, 64, 2)
    near = (points[0, :, 0] - 0.5).abs()
    assert (near[:48] < 0.2).all() and (near[48:] > 0.2).any()


def test_matched_masks_are_those_of_the_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, pixels = (
        torch.randn(1, 3, 5, 4, generator=generator),
        torch.randn(3, 4, 2, 3, generator=generator),
    )
    factors = MaskFactors(queries, (pixels,), torch.tensor([0.5]))
    images, chosen = torch.tensor([0, 0, 2]), torch.tensor([4, 1, 3])
    found = matched_mask_logits(factors, 0, images, chosen)
    for row, (image, query) in enumerate(zip(images, chosen, strict=True)):
        expected = torch.einsum("d,dhw->hw", queries[0, image, query], pixels[image]) + 0.5
        torch.testing.assert_close(found[row], expected)


def test_masks_decide_the_matching() -> None:
    matcher = make_matcher(TrainConfig(cost=CostConfig(mask=5.0, dice=5.0)), "sigmoid")
    torch.manual_seed(0)
    matches = matcher(predictions(), targets())
    assert matches.queries.tolist() == [[5, 2, 3]] * LAYERS
    assert make_matcher(TrainConfig(), "sigmoid").mask_cost is None


def test_the_cost_equals_the_losses_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.rand(64, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(
        mask_points, "_random_points", lambda rows, count, device: drawn[:count].expand(rows, -1, -1)
    )
    outputs, truth = predictions(2.0), targets()
    factors = outputs.mask_factors
    assert factors is not None
    cost = MaskCost(3.0, 2.0)(factors, truth)
    assert cost.shape == (LAYERS, 2, 2, QUERIES) and not cost[:, 1, 1].any(), (
        "rows beyond an image's objects are 0"
    )
    logits = matched_mask_logits(factors, 1, torch.tensor([0]), torch.tensor([4]))
    points = drawn[None, : SIDE * SIDE // 16]
    x = mask_points.sample_points(logits[:, None], points)[:, 0]
    t = masks_at_points(truth[0], points.expand(2, -1, -1), (1.0, 1.0))[1:].float()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, t)
    dice = 1 - (2 * (x.sigmoid() * t).sum() + 1) / (x.sigmoid().sum() + t.sum() + 1)
    torch.testing.assert_close(cost[1, 0, 1, 4], 3 * entropy + 2 * dice)


def test_right_masks_cost_next_to_nothing_in_every_layer() -> None:
    found, wrong = losses(predictions(), targets()), losses(predictions(-20.0), targets())
    for name in ("loss_mask", "loss_dice", "loss_mask_0", "loss_dice_0"):
        assert found.terms[name] < 0.15 < wrong.terms[name], name


@pytest.mark.parametrize("without", ["empty", "none"])
def test_objects_without_a_mask_take_no_part(without: str) -> None:
    truth = targets()
    masks = truth[1].masks
    assert masks is not None
    truth[1] = Target(truth[1].labels, truth[1].boxes_cxcywh, None if without == "none" else masks & False)
    outputs = predictions(0.5)
    found = losses(outputs, truth)
    assert found.terms["loss_mask"] < losses(predictions(0.5), targets()).terms["loss_mask"]
    found.total.backward()
    factors = outputs.mask_factors
    assert factors is not None and factors.queries.grad is not None
    assert factors.queries.grad[:, 0].any() and not factors.queries.grad[:, 1].any()


def test_a_batch_without_objects_has_a_gradient_of_zero() -> None:
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 32, 32) > 0)
    outputs = predictions()
    found = losses(outputs, [nothing, nothing])
    assert found.terms["loss_mask"] == 0 and found.terms["loss_dice"] == 0
    found.total.backward()
    factors = outputs.mask_factors
    assert factors is not None and factors.queries.grad is not None and not factors.queries.grad.any()


def test_every_layer_and_the_proposals_have_mask_terms() -> None:
    model = tiny("rfdetr-seg-nano").model.train()
    batch = Batch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    found = losses(model(batch), targets())
    names = {name for name in found.terms if "mask" in name or "dice" in name}
    assert names == {f"loss_{kind}{layer}" for kind in ("mask", "dice") for layer in ("", "_0", "_proposals")}
    found.total.backward()
    head = model.mask_head
    assert head is not None and all(p.grad is not None and p.grad.any() for p in head.parameters())
