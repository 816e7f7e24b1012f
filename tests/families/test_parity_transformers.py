"""Outputs equal transformers' with the same random weights: every decoder layer, a padded batch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_linear, calibrate_norms, median_distance, spread_weights
from torch import Tensor

from detrscope.checkpoints.load import load_model
from detrscope.core.types import Batch

VARIANTS = {
    "detr-r50": {"backbone": "resnet50"},
    "detr-r101": {"backbone": "resnet101"},
    "detr-r50-dc5": {"backbone": "resnet50", "dc5": True},
    "detr-r101-dc5": {"backbone": "resnet101", "dc5": True},
}


def hugging_face_model(backbone: str, dc5: bool = False) -> Any:
    """DetrForObjectDetection with 91 classes and random weights."""
    from transformers import DetrConfig, DetrForObjectDetection, TimmBackboneConfig

    body = TimmBackboneConfig(
        backbone=backbone, use_pretrained_backbone=False, out_indices=[4], output_stride=16 if dc5 else None
    )
    config = DetrConfig(backbone_config=body, num_labels=91, attn_implementation="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DetrForObjectDetection(config).eval()
    spread_weights(model)
    calibrate_norms(model, lambda: model(padded_batch().images))
    calibrate_linear(model.bbox_predictor.layers[-1], lambda: model(padded_batch().images))
    return model


def padded_batch() -> Batch:
    """Two images of different sizes, padded to one."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 256, 320, generator=generator)
    padding = torch.zeros(2, 256, 320, dtype=torch.bool)
    padding[0, 200:] = True
    padding[0, :, 300:] = True
    padding[1, :, 230:] = True
    return Batch(images.masked_fill(padding[:, None], 0.0), padding)


def decoder_states(model: Any, batch: Batch) -> Tensor:
    """Normed state after every decoder layer, [N, B, Q, D].

    Read from the layers themselves: with `auxiliary_loss=True`, transformers 5.23 feeds the normed state on to the next
    layer, which neither its own model without that option nor the published code does.
    """
    assert batch.padding is not None
    decoder = model.model.decoder
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: states.append(decoder.layernorm(output)))
        for layer in decoder.layers
    ]
    model.model(batch.images, (~batch.padding).long())
    for hook in hooks:
        hook.remove()
    return torch.stack(states)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_decoder_layer_equals_transformers(variant: str, tmp_path: Path) -> None:
    theirs = hugging_face_model(**VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.card.variant == variant
    assert loaded.card.classes.ids == tuple(range(91))
    batch = padded_batch()
    assert batch.padding is not None
    with torch.no_grad():
        ours = loaded.model(batch)
        states = decoder_states(theirs, batch)
        logits = theirs.class_labels_classifier(states)
        boxes = theirs.bbox_predictor(states).sigmoid()
    assert median_distance(boxes[-1], 320, 256) > 30, "the comparison could not fail"
    assert ours.logits.shape == logits.shape == (6, 2, 100, 92)
    torch.testing.assert_close(ours.logits, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.boxes_cxcywh, boxes, atol=1e-4, rtol=0)


def test_old_and_new_key_names_load_the_same(tmp_path: Path) -> None:
    """Files on the hub say `out_proj` and `conv_encoder`; a state dict of transformers 5 says `o_proj` and `mlp`."""
    from safetensors.torch import load_file, save_file

    theirs = hugging_face_model("resnet50")
    theirs.save_pretrained(tmp_path)
    old = load_model(tmp_path)
    in_memory = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    assert in_memory.keys() != load_file(tmp_path / "model.safetensors").keys()
    save_file(in_memory, tmp_path / "model.safetensors")
    new = load_model(tmp_path)
    for key, tensor in old.model.state_dict().items():
        assert torch.equal(tensor, new.model.state_dict()[key]), key


def test_transformers_own_resnet_loads(tmp_path: Path) -> None:
    """The hub's `no_timm` files hold transformers' ResNet, whose names are all different."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    body = ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False, backbone_config=body, num_labels=3, encoder_layers=2, decoder_layers=2
    )
    theirs = DetrForObjectDetection(config).eval()
    spread_weights(theirs)
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.card.config["backbone"]["name"] == "resnet18"
    batch = padded_batch()
    with torch.no_grad():
        ours = loaded.model(Batch(batch.images))
        expected = theirs(batch.images)
    torch.testing.assert_close(ours.boxes_cxcywh[-1], expected.pred_boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.logits[-1], expected.logits, atol=1e-4, rtol=0)
