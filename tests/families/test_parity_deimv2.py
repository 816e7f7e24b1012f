"""DEIMv2 with the settings of transformers' model equals it with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrscope.checkpoints.load import load_model
from tests.support.distribution_models import NANO, assert_every_layer_is_equal, hub_backbone, spread

ATTO = {
    "encoder_type": "lite", "encoder_hidden_dim": 64, "encoder_in_channels": [256], "feat_strides": [16, 32],
    "d_model": 64, "decoder_in_channels": [64, 64], "decoder_ffn_dim": 160, "num_feature_levels": 2,
    "decoder_n_points": [4, 2], "decoder_layers": 3, "num_queries": 100, "use_gateway": False,
    "share_bbox_head": True, "hidden_expansion": 0.34, "depth_mult": 0.5,
}  # fmt: skip


def atto_backbone() -> Any:
    import transformers

    return transformers.HGNetV2Config(
        stem_channels=[3, 16, 16], stage_in_channels=[16, 64, 256], stage_mid_channels=[16, 32, 64],
        stage_out_channels=[64, 256, 256], stage_num_blocks=[1] * 3, stage_numb_of_layers=[3] * 3,
        stage_downsample=[False, True, True], stage_light_block=[False, False, True], stage_kernel_size=[3] * 3,
        stage_downsample_strides=[2] * 3, hidden_sizes=[64, 256, 256], depths=[1] * 3, out_indices=[3],
        use_learnable_affine_block=True,
    )  # fmt: skip


def exact_norm(norm: Any, x: Tensor) -> Tensor:
    """Their RMS norm in the type of its input: theirs computes in float32 whatever it gets."""
    out: Tensor = norm.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return out


@pytest.mark.parametrize("size", ["atto", "n"])
def test_every_layer_equals_transformers(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from transformers.models.deimv2 import modeling_deimv2

    rest = ATTO if size == "atto" else NANO
    torch.manual_seed(0)
    backbone = atto_backbone() if size == "atto" else hub_backbone("b0", 2)
    config = transformers.Deimv2Config(
        backbone_config=backbone, num_labels=80, attn_implementation="eager", **rest
    )
    theirs = spread(transformers.Deimv2ForObjectDetection(config).eval(), rest)
    theirs.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert (loaded.card.family, loaded.card.config["proposals"]) == ("deimv2", "projected")
    assert loaded.card.config["box_heads"] == ("shared" if size == "atto" else "each layer")
    monkeypatch.setattr(modeling_deimv2.Deimv2RMSNorm, "forward", exact_norm)
    assert_every_layer_is_equal(loaded.model, theirs, monkeypatch)
