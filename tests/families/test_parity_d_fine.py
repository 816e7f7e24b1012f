"""D-FINE equals transformers' with the same weights: proposals, start boxes and every decoder layer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from detrscope.blocks.path import DetectionTransformer
from detrscope.checkpoints.load import load_model
from tests.support.distribution_models import NANO, assert_every_layer_is_equal, hub_backbone, spread

POINTS = {"decoder_n_points": [3, 6, 3]}
LARGE = {
    "encoder_hidden_dim": 384,
    "encoder_ffn_dim": 2048,
    "decoder_in_channels": [384] * 3,
    "reg_scale": 8.0,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dfine-n": ("b0", NANO),
    "dfine-s": ("b0", {**POINTS, "hidden_expansion": 0.5, "depth_mult": 0.34, "decoder_layers": 3}),
    "dfine-m": ("b2", {**POINTS, "depth_mult": 0.67, "decoder_layers": 4}),
    "dfine-l": ("b4", POINTS),
    "dfine-x": ("b5", {**POINTS, **LARGE}),
}
ALL = "DETRSCOPE_ALL_VARIANTS" in os.environ
others = pytest.mark.skipif(not ALL, reason="other sizes of one architecture: set DETRSCOPE_ALL_VARIANTS=1")


def hub_model(variant: str, **more: Any) -> Any:
    """DFineForObjectDetection with 80 classes and random weights."""
    import transformers

    name, rest = VARIANTS[variant]
    torch.manual_seed(0)
    backbone = hub_backbone(name, len(rest["decoder_n_points"]))
    config = transformers.DFineConfig(
        backbone_config=backbone, num_labels=80, attn_implementation="eager", **rest, **more
    )
    return spread(transformers.DFineForObjectDetection(config).eval(), rest)


def load_both(variant: str, folder: Path, **more: Any) -> tuple[DetectionTransformer, Any]:
    theirs = hub_model(variant, **more)
    theirs.save_pretrained(folder)
    loaded = load_model(folder)
    assert loaded.card.variant == variant
    assert loaded.card.preprocessing.box == (640, 640)
    return loaded.model, theirs


@pytest.mark.parametrize(
    "variant", ["dfine-n", *(pytest.param(name, marks=others) for name in VARIANTS if name != "dfine-n")]
)
def test_every_layer_equals_transformers(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_every_layer_is_equal(*load_both(variant, tmp_path), monkeypatch)
