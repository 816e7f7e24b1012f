"""transformers' models of today's detectors with random weights, smallest sizes, by our variant names."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from detrscope.checkpoints.load import load_model
from detrscope.inference.reference_models import transformers_model

HGNETV2_B0 = {
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_numb_of_layers": [3] * 4,
    "hidden_sizes": [64, 256, 512, 1024],
    "use_learnable_affine_block": True,
    "out_indices": [3, 4],
}
HGNETV2_ATTO = {
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256],
    "stage_mid_channels": [16, 32, 64],
    "stage_out_channels": [64, 256, 256],
    "stage_num_blocks": [1] * 3,
    "stage_numb_of_layers": [3] * 3,
    "stage_downsample": [False, True, True],
    "stage_light_block": [False, False, True],
    "stage_kernel_size": [3] * 3,
    "stage_downsample_strides": [2] * 3,
    "hidden_sizes": [64, 256, 256],
    "depths": [1] * 3,
    "use_learnable_affine_block": True,
    "out_indices": [3],
}
D_FINE_N = {
    "encoder_hidden_dim": 128,
    "encoder_in_channels": [512, 1024],
    "feat_strides": [16, 32],
    "encoder_ffn_dim": 512,
    "encode_proj_layers": [1],
    "hidden_expansion": 0.34,
    "depth_mult": 0.5,
    "d_model": 128,
    "decoder_layers": 3,
    "decoder_in_channels": [128, 128],
    "decoder_ffn_dim": 512,
    "num_feature_levels": 2,
    "decoder_n_points": [6, 6],
}
DEIMV2_ATTO = {
    "encoder_type": "lite",
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [256],
    "feat_strides": [16, 32],
    "d_model": 64,
    "decoder_in_channels": [64, 64],
    "decoder_ffn_dim": 160,
    "num_feature_levels": 2,
    "decoder_n_points": [4, 2],
    "decoder_layers": 3,
    "num_queries": 100,
    "use_gateway": False,
    "share_bbox_head": True,
    "hidden_expansion": 0.34,
    "depth_mult": 0.5,
}
LW_DETR_T_BACKBONE = {
    "num_hidden_layers": 6,
    "window_block_indices": [0, 2, 4],
    "out_indices": [2, 4, 6],
    "hidden_size": 192,
}
LW_DETR_T = {"projector_scale_factors": [1.0], "decoder_n_points": 2, "num_queries": 100}
RF_DETR_NANO_BACKBONE = {
    "patch_size": 16,
    "num_windows": 2,
    "out_indices": [3, 6, 9, 12],
    "image_size": 384,
    "hidden_size": 384,
    "num_attention_heads": 6,
    "num_register_tokens": 0,
}
RF_DETR_NANO = {"decoder_layers": 2, "decoder_n_points": 2, "dropout": 0.0}
# Class, class of the backbone's config, its settings, the settings; the backbones of the first two have no attention.
MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "dfine-n": ("DFine", "HGNetV2Config", HGNETV2_B0, D_FINE_N),
    "deimv2-atto": ("Deimv2", "HGNetV2Config", HGNETV2_ATTO, DEIMV2_ATTO),
    "lwdetr-t": ("LwDetr", "LwDetrViTConfig", LW_DETR_T_BACKBONE, LW_DETR_T),
    "rfdetr-nano": ("RfDetr", "RfDetrDinov2Config", RF_DETR_NANO_BACKBONE, RF_DETR_NANO),
}


def hub_model(variant: str, attention: str) -> Any:
    """Build a model of 80 classes with random weights, in float32 and evaluation mode.

    Args:
        variant: one of `MODELS`, or a variant that `detrscope benchmark --against transformers` knows.
        attention: eager or sdpa.
    """
    torch.manual_seed(0)
    if variant not in MODELS:
        return transformers_model(load_model(variant, weights="random").card, attention)
    transformers: Any = import_module("transformers")
    name, backbone, body, rest = MODELS[variant]
    of_convolutions = backbone == "HGNetV2Config"
    config = getattr(transformers, f"{name}Config")(
        backbone_config=getattr(transformers, backbone)(**body),
        num_labels=80,
        attn_implementation={"": attention, "backbone_config": "eager"} if of_convolutions else attention,
        **rest,
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config).eval()
