"""RT-DETR and RT-DETRv2 equal transformers' with the same weights: proposals and every decoder layer."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_norms, median_distance, spread_weights
from PIL import Image
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.load import load_model
from detrscope.core.postprocess import postprocess
from detrscope.core.types import Batch, Outputs

HEIGHT, WIDTH = 160, 192
BASIC = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
DEEP = {"depths": [3, 4, 6, 3], "layer_type": "bottleneck"}
SMALL = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5}
LARGE = {"encoder_hidden_dim": 384, "encoder_ffn_dim": 2048, "decoder_in_channels": [384, 384, 384]}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rtdetr-r18": (BASIC, {**SMALL, "decoder_layers": 3}),
    "rtdetr-r34": ({**BASIC, "depths": [3, 4, 6, 3]}, {**SMALL, "decoder_layers": 4}),
    "rtdetr-r50": (DEEP, {}),
    "rtdetr-r101": ({**DEEP, "depths": [3, 4, 23, 3]}, LARGE),
    "rtdetrv2-r18": (BASIC, {**SMALL, "decoder_layers": 3}),
    "rtdetrv2-r34": ({**BASIC, "depths": [3, 4, 6, 3]}, {**SMALL, "decoder_layers": 4}),
    "rtdetrv2-r50": (DEEP, {}),
    "rtdetrv2-r101": ({**DEEP, "depths": [3, 4, 23, 3]}, LARGE),
}


def hub_model(variant: str, **more: Any) -> Any:
    """RTDetrForObjectDetection or its v2 with 80 classes and random weights."""
    import transformers

    name = "RTDetrV2" if variant.startswith("rtdetrv2") else "RTDetr"
    body, rest = VARIANTS[variant]
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(out_indices=[2, 3, 4], **body)
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone, num_labels=80, attn_implementation="eager", **rest, **more
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config).eval()
    spread_weights(model)
    calibrate_norms(model, lambda: model(images()))
    for name, buffer in model.named_buffers():
        if name.endswith("n_points_scale"):  # one over the number of points, no weight
            buffer.fill_(0.25)
    for head in (*model.model.decoder.bbox_embed, model.model.enc_bbox_head):
        head.layers[-1].weight.data.mul_(
            0.3
        )  # large steps in each of six layers would multiply rounding errors
    return model


def images() -> torch.Tensor:
    """Two images of large patches: noise of pixels would average out, and norms would magnify rounding instead."""
    patches = torch.randn(2, 3, HEIGHT // 16, WIDTH // 16, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(patches, size=(HEIGHT, WIDTH), mode="bicubic") * 2


def load_both(variant: str, folder: Path, **more: Any) -> tuple[DetectionTransformer, Any]:
    theirs = hub_model(variant, **more)
    theirs.save_pretrained(folder)
    loaded = load_model(folder)
    assert loaded.card.variant == ("rt_detr" if more else variant)
    assert loaded.card.preprocessing.box == (640, 640)
    return loaded.model, theirs


def with_selection_of(ours: Outputs, theirs: Any, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return their outputs for the tokens that we selected; scores that nearly tie may be ranked otherwise."""
    assert ours.proposals is not None
    scores = ours.proposals.logits.amax(-1)
    selected = scores.topk(300, dim=1).indices

    def topk(values: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
        lowest = values.topk(count, dim=dim).values[:, -1:]
        assert (values.gather(1, selected) > lowest - 1e-3).all(), "another selection"
        return values.gather(1, selected), selected

    with monkeypatch.context() as patch:
        patch.setattr(torch, "topk", topk)
        return theirs(batch)


def parts_of(outputs: Outputs | Any) -> list[Tensor]:
    """Return logits and boxes of proposals and of every decoder layer."""
    if isinstance(outputs, Outputs):
        assert outputs.proposals is not None
        return [
            outputs.proposals.logits,
            outputs.proposals.boxes_cxcywh,
            outputs.logits,
            outputs.boxes_cxcywh,
        ]
    proposed = [outputs.enc_outputs_class, outputs.enc_outputs_coord_logits.sigmoid()]
    layers = (outputs.intermediate_logits, outputs.intermediate_reference_points)
    return [*proposed, *(x.transpose(0, 1) for x in layers)]


@pytest.mark.parametrize(
    ("variant", "more"),
    [*((variant, {}) for variant in VARIANTS), ("rtdetrv2-r18", {"decoder_method": "discrete"})],
)
def test_every_layer_equals_transformers(
    variant: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-6 in float64. In float32 to 1e-4 of the scale, or to the rounding of theirs in a deep random network."""
    if not (variant.endswith("r18") or os.environ.get("DETRSCOPE_ALL_VARIANTS")):
        pytest.skip("the smallest sizes are compared; set DETRSCOPE_ALL_VARIANTS=1 for the others")
    model, theirs = load_both(variant, tmp_path, **more)
    with torch.no_grad():
        ours = model(Batch(images()))
        single = with_selection_of(ours, theirs, images(), monkeypatch)
        exact = with_selection_of(ours, theirs.double(), images().double(), monkeypatch)
        double = model.double()(Batch(images().double()))
        selected = with_selection_of(double, theirs, images().double(), monkeypatch)
    assert median_distance(exact.pred_boxes, WIDTH, HEIGHT) > 15, "the comparison could not fail"
    assert exact.logits.std(1).median() > 0.1, "the comparison could not fail"
    for mine, other in zip(parts_of(double), parts_of(selected), strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, atol=1e-6 * max(1.0, float(other.abs().max())), rtol=0)
    for mine, other, truth in zip(parts_of(ours), parts_of(single), parts_of(exact), strict=True):
        rounding = float((other - truth).abs().max())
        scale = max(1.0, float(truth.abs().max()))
        far = (mine - truth).abs() > max(1e-4 * scale, 3 * rounding)
        few = 1e-2 if more else 1e-3  # discrete points jump to another token where rounding decides
        assert far.float().mean() < few


def test_images_and_detections_equal_transformers(tmp_path: Path) -> None:
    """The images to one grey level, all 300 pairs of query and class in pixels of the original."""
    import numpy as np
    import transformers

    model, _ = load_both("rtdetr-r18", tmp_path)
    transformers.RTDetrImageProcessor().save_pretrained(tmp_path)
    card = load_model(tmp_path).card
    processor = transformers.RTDetrImageProcessor.from_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)).resize(
        (700, 410)
    )
    theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    ours = card.preprocessing.apply(pixels)
    assert ours.shape == theirs.shape == (3, 640, 640)
    assert (ours - theirs).abs().max() * 255 < 1.01
    with torch.no_grad():
        outputs = model(Batch(images()))
    given = SimpleNamespace(logits=outputs.logits[-1], pred_boxes=outputs.boxes_cxcywh[-1])
    expected = processor.post_process_object_detection(given, 0.0, target_sizes=[(410, 700), (90, 130)])
    for found, other in zip(postprocess(outputs, card, [(410, 700), (90, 130)]), expected, strict=True):
        assert len(found.scores) == 300
        torch.testing.assert_close(found.scores, other["scores"])
        torch.testing.assert_close(found.boxes_xyxy, other["boxes"], atol=1e-2, rtol=0)
        assert (found.class_indices == other["labels"]).float().mean() > 0.98, (
            "equal scores may change places"
        )
