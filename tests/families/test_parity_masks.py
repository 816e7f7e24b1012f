"""DETR's mask head equals transformers' with the same weights, and both layouts of its files load."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_linear, calibrate_norms, spread_weights
from safetensors.torch import load_file, save_file

from detrscope.checkpoints.load import load_model
from detrscope.core.errors import UserError
from detrscope.core.types import Batch, Outputs
from tests.support.published_checkpoints import official_state

VARIANTS = {
    "detr-r50-panoptic": ("resnet50", False),
    "detr-r50-dc5-panoptic": ("resnet50", True),
    "detr-r101-panoptic": ("resnet101", False),
}


def padded_batch() -> Batch:
    """Two images of different sizes, padded to one."""
    images = torch.randn(2, 3, 256, 320, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 256, 320, dtype=torch.bool)
    padding[0, 200:], padding[0, :, 300:], padding[1, :, 230:] = True, True, True
    return Batch(images.masked_fill(padding[:, None], 0.0), padding)


def hugging_face_model(backbone: str, dc5: bool = False, **more: Any) -> Any:
    """DetrForSegmentation with COCO panoptic's 250 classes and random weights."""
    from transformers import DetrConfig, DetrForSegmentation, TimmBackboneConfig

    body = TimmBackboneConfig(
        backbone=backbone,
        use_pretrained_backbone=False,
        out_indices=[1, 2, 3, 4],
        output_stride=16 if dc5 else None,
    )
    config = DetrConfig(backbone_config=body, num_labels=250, attn_implementation="eager", **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DetrForSegmentation(config).eval()
    spread_weights(model)
    with (
        torch.no_grad()
    ):  # sharp attention that counts beside the features, so that masks differ between queries
        model.bbox_attention.q_proj.weight.mul_(3)
        model.mask_head.conv1.conv.weight[:, config.d_model :].mul_(150)
        for stage in model.mask_head.fpn_stages:
            stage.fpn_adapter.weight.mul_(0.2)
    calibrate_norms(model, lambda: model(padded_batch().images))
    calibrate_linear(model.detr.bbox_predictor.layers[-1], lambda: model(padded_batch().images))
    return model


def both(theirs: Any, ours: Any, batch: Batch) -> tuple[Any, Outputs]:
    """Outputs of the two models for a padded batch."""
    assert batch.padding is not None
    with torch.no_grad():
        return theirs(batch.images, (~batch.padding).long()), ours(batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_equal_transformers(variant: str, tmp_path: Path) -> None:
    if variant != "detr-r50-panoptic" and not os.environ.get("DETRSCOPE_ALL_VARIANTS"):
        pytest.skip("other sizes than the smallest: with DETRSCOPE_ALL_VARIANTS=1")
    theirs = hugging_face_model(*VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.card.variant == variant
    batch = padded_batch()
    expected, found = both(theirs, loaded.model, batch)
    masks = found.masks
    assert masks is not None and masks.logits.shape == expected.pred_masks.shape == (2, 100, 64, 80)
    scale = float(expected.pred_masks.abs().max())
    between = (expected.pred_masks - expected.pred_masks.mean(1, keepdim=True)).abs().mean()
    assert between > 0.005 * scale, "masks of all queries alike: the comparison could not fail"
    torch.testing.assert_close(masks.logits, expected.pred_masks, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(found.logits[-1], expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes_cxcywh[-1], expected.pred_boxes, atol=1e-4, rtol=0)
    batch = Batch(batch.images.double(), batch.padding)
    expected, found = both(theirs.double(), loaded.model.double(), batch)
    assert found.masks is not None
    torch.testing.assert_close(found.masks.logits, expected.pred_masks, atol=1e-6 * scale, rtol=0)
    assert found.masks.extent is not None
    torch.testing.assert_close(found.masks.extent, torch.tensor([[200 / 256, 300 / 320], [1.0, 230 / 320]]))


def small_model() -> Any:
    return hugging_face_model(
        "resnet18",
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=7,
        encoder_attention_heads=8, decoder_attention_heads=8,
    )  # fmt: skip


def test_old_and_new_key_names_load_the_same(tmp_path: Path) -> None:
    """Files on the hub say `lay1` and `q_linear`; a state dict of transformers 5 `conv1` and `q_proj`."""
    theirs = small_model()
    theirs.save_pretrained(tmp_path)
    assert "mask_head.lay1.weight" in load_file(tmp_path / "model.safetensors")
    old = load_model(tmp_path).model.state_dict()
    in_memory = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    assert "mask_head.conv1.conv.weight" in in_memory
    save_file(in_memory, tmp_path / "model.safetensors")
    new = load_model(tmp_path).model.state_dict()
    assert old.keys() == new.keys()
    for key, tensor in old.items():
        assert torch.equal(tensor, new[key]), key


def published_state() -> dict[str, torch.Tensor]:
    """A small model in the authors' layout: the detector as `detr`, the mask head beside it."""
    head = {key: value for key, value in _as_on_hub(small_model()).items() if not key.startswith("detr.")}
    return {**{f"detr.{key}": value for key, value in official_state(classes=250).items()}, **head}


def _as_on_hub(model: Any) -> dict[str, torch.Tensor]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return dict(load_file(Path(folder) / "model.safetensors"))


def test_authors_file_loads_strictly(tmp_path: Path) -> None:
    state = published_state()
    torch.save({"model": state}, tmp_path / "panoptic.pth")
    loaded = load_model(tmp_path / "panoptic.pth")
    assert loaded.card.config["mask_head"] == "convolutional"
    assert loaded.card.classes.names[17] == "cat" and loaded.card.classes.names[187] == "sky-other-merged"
    assert loaded.report.skipped == ()
    ours = loaded.model.state_dict()
    assert torch.equal(ours["mask_head.fusions.2.norm.weight"], state["mask_head.gn5.weight"])
    assert torch.equal(ours["mask_head.laterals.1.bias"], state["mask_head.adapter2.bias"])
    assert torch.equal(ours["mask_head.attention.key.weight"], state["bbox_attention.k_linear.weight"])
    assert torch.equal(ours["heads.class_head.weight"], state["detr.class_embed.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask_head.gn5.weight": None}, "missing mask_head.fusions.2.norm.weight"),
        ({"mask_head.lay9.weight": torch.zeros(1)}, "unknown"),
        ({"mask_head.out_lay.weight": torch.zeros(1, 3, 3, 3)}, r"mask_head.output.weight is \[1, 3, 3, 3\]"),
    ],
)
def test_damaged_mask_heads_are_refused(
    change: dict[str, torch.Tensor | None], reason: str, tmp_path: Path
) -> None:
    state = {key: value for key, value in {**published_state(), **change}.items() if value is not None}
    torch.save({"model": state}, tmp_path / "panoptic.pth")
    with pytest.raises(UserError, match=reason):
        load_model(tmp_path / "panoptic.pth")
