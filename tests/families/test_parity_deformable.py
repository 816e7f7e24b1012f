"""Deformable DETR equals transformers' with the same weights: all variants and layers, a padded batch, losses."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_linear, calibrate_norms, median_distance, spread_weights
from torch import Tensor, nn

from detrscope.checkpoints.load import load_model
from detrscope.core.types import Batch, Outputs, Target
from detrscope.training.losses.boxes import BoxGIoU, BoxL1
from detrscope.training.losses.classes import FocalLoss
from detrscope.training.losses.criterion import SetCriterion
from detrscope.training.matcher import FocalCost, Matcher

HEIGHT, WIDTH = 128, 160
VARIANTS = {
    "deformable-detr-r50": {},
    "deformable-detr-r50-single-scale": {"num_feature_levels": 1},
    "deformable-detr-r50-single-scale-dc5": {"num_feature_levels": 1, "dilation": True},
    "deformable-detr-r50-refine": {"with_box_refine": True},
    "deformable-detr-r50-two-stage": {"with_box_refine": True, "two_stage": True},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@cache
def theirs_of(variant: str) -> Any:
    """DeformableDetrForObjectDetection with 91 classes and random weights; every head its own where it refines."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    torch.manual_seed(0)
    config = DeformableDetrConfig(
        num_labels=91, auxiliary_loss=True, class_cost=2, attn_implementation="eager", **VARIANTS[variant]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DeformableDetrForObjectDetection(config).eval()
    refining = config.with_box_refine
    if refining and not config.two_stage:
        for (
            head
        ) in model.class_embed:  # transformers 5.23 ties them; the published code and its weights do not
            head.weight, head.bias = nn.Parameter(head.weight.clone()), nn.Parameter(head.bias.clone())
    spread_weights(model)
    if not config.two_stage:
        model.model.reference_points.weight.data.mul_(0.3)  # points all over the image, not in its corners
    batch = padded_batch()

    def run() -> None:
        model(batch.images, mask_of(batch))

    calibrate_norms(model, lambda: model(batch.images))
    if not refining:
        calibrate_linear(model.bbox_embed[0].layers[-1], run)
    for head in model.model.decoder.bbox_embed or ():
        head.layers[-1].weight.data.mul_(
            0.3
        )  # a large step in each of six layers would multiply rounding errors
    return model


def padded_batch() -> Batch:
    """Two images of different sizes, padded to one."""
    images = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    padding[0, 100:] = True
    padding[0, :, 150:] = True
    padding[1, :, 110:] = True
    return Batch(images.masked_fill(padding[:, None], 0.0), padding)


def mask_of(batch: Batch) -> Tensor:
    assert batch.padding is not None
    return (~batch.padding).long()


def made_up_targets() -> list[Target]:
    generator = torch.Generator().manual_seed(2)
    targets = []
    for count in (5, 3):
        size = torch.rand(count, 2, generator=generator) * 0.3 + 0.05
        centre = size / 2 + torch.rand(count, 2, generator=generator) * (1 - size)
        labels = torch.randint(0, 91, (count,), generator=generator)
        targets.append(Target(labels, torch.cat([centre, size], dim=1)))
    return targets


@cache
def both(variant: str, folder: Path) -> tuple[Outputs, Any, dict[str, float]]:
    """Our outputs, theirs with losses, and our loss terms."""
    theirs = theirs_of(variant)
    theirs.save_pretrained(folder)
    loaded = load_model(folder)
    assert loaded.card.variant == variant
    assert loaded.card.classes.ids == tuple(range(91)) and loaded.card.scoring == "sigmoid"
    batch, targets = padded_batch(), made_up_targets()
    labels = [{"class_labels": t.labels, "boxes": t.boxes_cxcywh} for t in targets]
    with torch.no_grad():
        ours = loaded.model(batch)
        expected = theirs(batch.images, mask_of(batch), labels=labels)
    criterion = SetCriterion(
        Matcher(FocalCost(), 2, 5, 2), (FocalLoss(weight=1), BoxL1(), BoxGIoU()), "sigmoid"
    )
    terms = {name: float(value) for name, value in criterion(ours, targets).terms.items()}
    return ours, expected, terms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deformable")


@every_variant
def test_every_decoder_layer_equals_transformers(variant: str, folder: Path) -> None:
    ours, theirs, _ = both(variant, folder / variant)
    layers = [*theirs.auxiliary_outputs, {"logits": theirs.logits, "pred_boxes": theirs.pred_boxes}]
    logits = torch.stack([layer["logits"] for layer in layers])
    boxes = torch.stack([layer["pred_boxes"] for layer in layers])
    assert median_distance(boxes[-1], WIDTH, HEIGHT) > 20, "the comparison could not fail"
    assert logits[-1].std(1).median() > 0.1, "the comparison could not fail"
    assert ours.logits.shape == logits.shape == (6, 2, 300, 91)
    torch.testing.assert_close(ours.logits, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.boxes_cxcywh, boxes, atol=1e-4, rtol=0)


@every_variant
def test_losses_equal_transformers(variant: str, folder: Path) -> None:
    """Theirs has no proposals' term, which the published code has; it is compared by their criterion below."""
    _, theirs, terms = both(variant, folder / variant)
    own = {name: value for name, value in terms.items() if not name.endswith("proposals")}
    names = {"loss_class": ("loss_ce", 1), "loss_box": ("loss_bbox", 5), "loss_giou": ("loss_giou", 2)}
    for name, value in own.items():
        term, _, layer = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
        key, weight = names[term]
        wanted = float(theirs.loss_dict[key + (f"_{layer}" if layer else "")]) * weight
        assert value == pytest.approx(wanted, rel=1e-5), name
    assert sum(own.values()) == pytest.approx(float(theirs.loss), rel=1e-5)


def test_proposals_and_their_loss_equal_transformers(folder: Path) -> None:
    """Every proposal, and its terms with all labels 0, as the published criterion has it."""
    from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

    variant = "deformable-detr-r50-two-stage"
    ours, theirs, terms = both(variant, folder / variant)
    proposals = ours.proposals
    assert proposals is not None
    boxes = theirs.enc_outputs_coord_logits.sigmoid()
    torch.testing.assert_close(proposals.logits, theirs.enc_outputs_class, atol=1e-4, rtol=0)
    torch.testing.assert_close(proposals.boxes_cxcywh, boxes, atol=1e-4, rtol=0)
    matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    criterion = DeformableDetrImageLoss(matcher, 91, 0.25, ["labels", "boxes"])
    labels = [
        {"class_labels": torch.zeros_like(t.labels), "boxes": t.boxes_cxcywh} for t in made_up_targets()
    ]
    found = criterion({"logits": theirs.enc_outputs_class, "pred_boxes": boxes}, labels)
    assert terms["loss_class_proposals"] == pytest.approx(float(found["loss_ce"]), rel=1e-5)
    assert terms["loss_box_proposals"] == pytest.approx(5 * float(found["loss_bbox"]), rel=1e-5)
    assert terms["loss_giou_proposals"] == pytest.approx(2 * float(found["loss_giou"]), rel=1e-5)


def test_shared_heads_load_with_and_without_copies(folder: Path) -> None:
    """Hub files differ: some repeat shared heads under every name, some keep one."""
    from safetensors.torch import load_file, save_file

    for variant in ("deformable-detr-r50", "deformable-detr-r50-refine"):
        both(variant, folder / variant)
        path = folder / variant / "model.safetensors"
        few = load_model(folder / variant).model.state_dict()
        in_memory = {key: value.clone() for key, value in theirs_of(variant).state_dict().items()}
        assert len(in_memory) > len(load_file(path))
        save_file(in_memory, path)
        many = load_model(folder / variant)
        assert many.card.variant == variant
        assert few.keys() == many.model.state_dict().keys()
        for key, tensor in few.items():
            assert torch.equal(tensor, many.model.state_dict()[key]), key
