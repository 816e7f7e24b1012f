"""Mask terms of the loss equal transformers', and pairs without a mask take no part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from detrscope.core.types import Masks, Outputs, Target
from detrscope.training.losses.criterion import Losses
from detrscope.training.losses.recipe import make_criterion
from detrscope.training.train_config import TrainConfig

QUERIES, CLASSES = 6, 3


def predictions() -> Outputs:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, QUERIES, CLASSES + 1, generator=generator)
    boxes = torch.rand(2, 2, QUERIES, 4, generator=generator) * 0.4 + 0.2
    masks = torch.randn(2, QUERIES, 8, 12, generator=generator) * 3
    return Outputs(logits, boxes, masks=Masks(masks))


def targets() -> list[Target]:
    """Two images of different sizes, with two objects and one."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for labels, (height, width) in (([0, 2], (32, 48)), ([1], (24, 40))):
        boxes = torch.rand(len(labels), 4, generator=generator) * 0.4 + 0.2
        masks = torch.rand(len(labels), height, width, generator=generator) > 0.6
        result.append(Target(torch.tensor(labels), boxes, masks))
    return result


def losses(outputs: Outputs, targets: list[Target]) -> Losses:
    result: Losses = make_criterion(TrainConfig(), "softmax")(outputs, targets)
    return result


def test_mask_terms_equal_transformers() -> None:
    from transformers import DetrConfig
    from transformers.loss.loss_for_object_detection import ForSegmentationLoss

    outputs = predictions()
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh, "masks": t.masks} for t in targets()]
    config = DetrConfig(num_labels=CLASSES, use_timm_backbone=False, backbone_config=_any_backbone())
    assert outputs.masks is not None
    total, theirs, _ = ForSegmentationLoss(
        outputs.logits[-1], labels, "cpu", outputs.boxes_cxcywh[-1], outputs.masks.logits, config
    )
    found = losses(outputs, targets())
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(found.terms[name], theirs[name], atol=1e-5, rtol=0)
    last = ("loss_class", "loss_box", "loss_giou", "loss_mask", "loss_dice")
    together = torch.stack([found.terms[name] for name in last]).sum()
    torch.testing.assert_close(together, total, atol=1e-5, rtol=0)


def _any_backbone() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(out_features=["stage4"])


def test_terms_are_of_the_last_layer_only() -> None:
    names = [name for name in losses(predictions(), targets()).terms if "mask" in name or "dice" in name]
    assert names == ["loss_mask", "loss_dice"]


@pytest.mark.parametrize("without", ["empty", "none"])
def test_objects_without_a_mask_take_no_part(without: str) -> None:
    whole, part = targets(), targets()
    masks = part[1].masks
    assert masks is not None
    part[1] = Target(part[1].labels, part[1].boxes_cxcywh, None if without == "none" else masks & False)
    outputs = predictions()
    assert outputs.masks is not None
    logits = outputs.masks.logits.requires_grad_()
    found = losses(outputs, part)
    assert found.terms["loss_mask"] < losses(outputs, whole).terms["loss_mask"]
    found.total.backward()
    gradient = logits.grad
    assert gradient is not None and gradient[0].abs().sum() > 0
    assert float(gradient[1].abs().sum()) == 0


def test_a_batch_without_objects_has_a_gradient_of_zero() -> None:
    nothing = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 32, 48) > 0)
    outputs = predictions()
    assert outputs.masks is not None
    logits = outputs.masks.logits.requires_grad_()
    found = losses(outputs, [nothing, nothing])
    assert found.terms["loss_mask"] == 0 and found.terms["loss_dice"] == 0
    found.total.backward()
    assert logits.grad is not None and not logits.grad.any()


def test_perfect_masks_cost_next_to_nothing() -> None:
    outputs, truth = predictions(), targets()
    right: list[Tensor] = []
    for image, target in enumerate(truth):
        assert target.masks is not None
        whole = torch.zeros(32, 48)
        mask = target.masks[0] & False
        mask[4:20, 8:24] = True
        whole[: mask.shape[0], : mask.shape[1]] = mask
        truth[image] = Target(target.labels[:1], target.boxes_cxcywh[:1], mask[None])
        right.append(torch.nn.functional.avg_pool2d(whole[None, None], 4)[0, 0] * 200 - 100)
    masks = torch.stack([part.expand(QUERIES, -1, -1) for part in right])
    found = losses(Outputs(outputs.logits, outputs.boxes_cxcywh, masks=Masks(masks)), truth)
    assert found.terms["loss_dice"] < 0.1 < losses(outputs, targets()).terms["loss_dice"]
