"""The published Deformable DETR, from a clone of github.com/fundamentalvision/Deformable-DETR that you give.

Its CUDA operator has no CPU path; its own PyTorch function, which its tests compare the operator with, takes its place
while this process runs. Nothing of it is here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import nn

DEFAULTS = {
    "position_embedding": "sine", "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 1024, "hidden_dim": 256,
    "dropout": 0.1, "nheads": 8, "num_queries": 300, "masks": False, "aux_loss": True, "enc_n_points": 4,
    "dec_n_points": 4, "set_cost_class": 2.0, "set_cost_bbox": 5.0, "set_cost_giou": 2.0, "cls_loss_coef": 2.0,
    "bbox_loss_coef": 5.0, "giou_loss_coef": 2.0, "focal_alpha": 0.25, "dataset_file": "coco", "device": "cpu",
    "lr_backbone": 2e-5, "frozen_weights": None, "backbone": "resnet50",
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "deformable-detr-r50": {},
    "deformable-detr-r50-single-scale": {"num_feature_levels": 1},
    "deformable-detr-r50-single-scale-dc5": {"num_feature_levels": 1, "dilation": True},
    "deformable-detr-r50-refine": {"with_box_refine": True},
    "deformable-detr-r50-two-stage": {"with_box_refine": True, "two_stage": True},
}
SWITCHES = {"num_feature_levels": 4, "dilation": False, "with_box_refine": False, "two_stage": False}


def arguments_of(variant: str) -> argparse.Namespace:
    """Return the arguments of the published training script for a variant."""
    return argparse.Namespace(**{**DEFAULTS, **SWITCHES, **VARIANTS[variant]})


def import_published(clone: str | Path) -> Any:
    """Import the clone's `models` package on its PyTorch function; its check of torchvision's version is shown 0.9."""
    if not (Path(clone) / "models" / "deformable_detr.py").is_file():
        sys.exit(
            f"{clone}: not a clone of github.com/fundamentalvision/Deformable-DETR (git clone it and pass --clone DIR)"
        )
    sys.path.insert(0, str(clone))
    sys.modules["MultiScaleDeformableAttention"] = ModuleType("MultiScaleDeformableAttention")
    real, torchvision.__version__ = torchvision.__version__, "0.9.0"
    try:
        import models
        from models.ops.functions import ms_deform_attn_func as functions
        from models.ops.modules import ms_deform_attn as module
    finally:
        torchvision.__version__ = real

    class OnCpu:
        """Stands for the published autograd function."""

        @staticmethod
        def apply(
            value: torch.Tensor, sizes: torch.Tensor, starts: torch.Tensor, points: torch.Tensor,
            weights: torch.Tensor, step: int,
        ) -> torch.Tensor:  # fmt: skip
            return functions.ms_deform_attn_core_pytorch(value, sizes.tolist(), points, weights)

    module.MSDeformAttnFunction = OnCpu
    return models


def build_published(models: Any, variant: str) -> tuple[nn.Module, Any]:
    """Model and criterion with random weights (no ImageNet download)."""
    from models import backbone as module

    main_process, module.is_main_process = (
        module.is_main_process,
        lambda: False,
    )  # pretrained=is_main_process()
    try:
        model, criterion, _ = models.build_model(arguments_of(variant))
    finally:
        module.is_main_process = main_process
    return model, criterion
