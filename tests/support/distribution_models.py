"""Models of transformers with D-FINE's decoder, and how their outputs are compared with ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.spread_weights import calibrate_norms, median_distance, spread_weights
from torch import Tensor

from detrscope.blocks.path import DetectionTransformer
from detrscope.core.types import Batch, Outputs

HEIGHT, WIDTH = 256, 320
SIZES = {
    "b0": ((16, 16), (16, 64, 256, 512), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, True),
    "b2": ((24, 32), (32, 96, 384, 768), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, True),
    "b4": (
        (32, 48),
        (48, 128, 512, 1024),
        (48, 96, 192, 384),
        (128, 512, 1024, 2048),
        (1, 1, 3, 1),
        6,
        False,
    ),
    "b5": (
        (32, 64),
        (64, 128, 512, 1024),
        (64, 128, 256, 512),
        (128, 512, 1024, 2048),
        (1, 2, 5, 2),
        6,
        False,
    ),
}
NANO = {
    "encoder_hidden_dim": 128, "encoder_in_channels": [512, 1024], "feat_strides": [16, 32], "encoder_ffn_dim": 512,
    "encode_proj_layers": [1], "hidden_expansion": 0.34, "depth_mult": 0.5, "d_model": 128, "decoder_layers": 3,
    "decoder_in_channels": [128, 128], "decoder_ffn_dim": 512, "num_feature_levels": 2, "decoder_n_points": [6, 6],
}  # fmt: skip


def hub_backbone(name: str, levels: int) -> Any:
    import transformers

    stem, channels, hidden, widths, blocks, layers, affine = SIZES[name]
    return transformers.HGNetV2Config(
        stem_channels=[3, *stem],
        stage_in_channels=list(channels),
        stage_mid_channels=list(hidden),
        stage_out_channels=list(widths),
        stage_num_blocks=list(blocks),
        stage_numb_of_layers=[layers] * 4,
        hidden_sizes=list(widths),
        use_learnable_affine_block=affine,
        out_indices=[2, 3, 4][-levels:],
    )


def spread(model: Any, rest: dict[str, Any]) -> Any:
    """Give a model weights of which every one matters."""
    spread_weights(model)
    calibrate_norms(model, lambda: model(images()))
    points = rest["decoder_n_points"]
    for name, tensor in (*model.named_buffers(), *model.named_parameters()):
        if name.endswith("num_points_scale"):  # one over the number of points, no weight
            tensor.data.copy_(torch.tensor([1 / n for n in points for _ in range(n)]))
        elif name.endswith("reg_scale"):
            tensor.data.fill_(rest.get("reg_scale", 4.0))
        elif name.endswith("decoder.up"):
            tensor.data.fill_(0.5)
        elif name.endswith("lab.scale"):
            tensor.data.copy_(1 + 0.2 * tensor.data.tanh())
    for head in (model.model.decoder.pre_bbox_head, model.model.enc_bbox_head):
        head.layers[-1].weight.data.mul_(0.3)  # large steps would multiply rounding errors in later layers
    return model


def images() -> torch.Tensor:
    """Two images of large patches: noise of pixels would average out, and norms would magnify rounding instead."""
    patches = torch.randn(2, 3, HEIGHT // 16, WIDTH // 16, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(patches, size=(HEIGHT, WIDTH), mode="bicubic") * 2


def every_layer_of(ours: Outputs, theirs: Any, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return their outputs for the tokens that we selected; scores that nearly tie may be ranked otherwise."""
    assert ours.proposals is not None
    selected = ours.proposals.selected
    assert selected is not None
    topk = torch.topk

    def ours_first(values: Tensor, count: int, dim: int = -1) -> Any:
        if values.dim() != 2:
            return topk(values, count, dim=dim)
        lowest = values.topk(count, dim=dim).values[:, -1:]
        assert (values.gather(1, selected) > lowest - 0.05).all(), "another selection"
        return values.gather(1, selected), selected

    with monkeypatch.context() as patch:
        patch.setattr(torch, "topk", ours_first)
        patch.setattr(theirs.model.decoder, "training", True)  # else it gives the last layer alone
        return theirs(batch)


def parts_of(outputs: Outputs | Any) -> list[Tensor]:
    """Return logits and boxes of proposals, of the start boxes and of every decoder layer, and the distributions."""
    if isinstance(outputs, Outputs):
        assert outputs.proposals is not None and outputs.distributions is not None
        start = outputs.distributions
        return [
            outputs.proposals.logits,
            outputs.proposals.boxes_cxcywh,
            torch.cat([start.start_logits[None], outputs.logits]),
            torch.cat([start.start_cxcywh[None], outputs.boxes_cxcywh]),
            start.logits.flatten(-2),
        ]
    proposed = [outputs.enc_outputs_class, outputs.enc_outputs_coord_logits.sigmoid()]
    layers = (
        outputs.intermediate_logits,
        outputs.intermediate_reference_points,
        outputs.intermediate_predicted_corners,
    )
    return [*proposed, *(x.transpose(0, 1) for x in layers)]


def assert_every_layer_is_equal(
    model: DetectionTransformer, theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-6 in float64. In float32 to 1e-4 of the scale, or to the rounding of theirs in a deep random network."""
    with torch.no_grad():
        ours = model(Batch(images()))
        single = every_layer_of(ours, theirs, images(), monkeypatch)
        exact = every_layer_of(ours, theirs.double(), images().double(), monkeypatch)
        double = model.double()(Batch(images().double()))
        selected = every_layer_of(double, theirs, images().double(), monkeypatch)
    assert median_distance(exact.pred_boxes, WIDTH, HEIGHT) > 8, "the comparison could not fail"
    assert exact.logits.std(1).median() > 0.1, "the comparison could not fail"
    for mine, other in zip(parts_of(double), parts_of(selected), strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other, atol=1e-6 * max(1.0, float(other.abs().max())), rtol=0)
    for mine, other, truth in zip(parts_of(ours), parts_of(single), parts_of(exact), strict=True):
        rounding = float((other - truth).abs().max())
        scale = max(1.0, float(truth.abs().max()))
        far = (mine - truth).abs() > max(1e-4 * scale, 3 * rounding)
        assert far.float().mean() < 1e-3, "where a sampling point crosses a token's centre, rounding decides"
