"""The published DETR code, from a clone of github.com/facebookresearch/detr that you give; none of it is here."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

DEFAULTS = {
    "position_embedding": "sine", "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "hidden_dim": 256,
    "dropout": 0.1, "nheads": 8, "num_queries": 100, "pre_norm": False, "masks": False, "aux_loss": True,
    "set_cost_class": 1.0, "set_cost_bbox": 5.0, "set_cost_giou": 2.0, "bbox_loss_coef": 5.0, "giou_loss_coef": 2.0,
    "eos_coef": 0.1, "dataset_file": "coco", "device": "cpu", "lr_backbone": 1e-5, "frozen_weights": None,
}  # fmt: skip


def import_published(clone: str | Path) -> Any:
    """Import the clone's `models` package, whose check of torchvision's version must be shown 0.9."""
    if not (Path(clone) / "models" / "detr.py").is_file():
        sys.exit(
            f"{clone}: not a clone of github.com/facebookresearch/detr (git clone it and pass --clone DIR)"
        )
    sys.path.insert(0, str(clone))
    real, torchvision.__version__ = torchvision.__version__, "0.9.0"
    try:
        import models
    finally:
        torchvision.__version__ = real
    return models


def build_published(models: Any, backbone: str, dilation: bool = False) -> tuple[nn.Module, Any]:
    """Model and criterion with random weights (no ImageNet download)."""
    from models import backbone as module

    args = argparse.Namespace(**DEFAULTS, backbone=backbone, dilation=dilation)
    main_process, module.is_main_process = (
        module.is_main_process,
        lambda: False,
    )  # it asks for pretrained=is_main_process()
    try:
        model, criterion, _ = models.build_model(args)
    finally:
        module.is_main_process = main_process
    return model, criterion


def nested(images: torch.Tensor, padding: torch.Tensor | None = None) -> Any:
    """Return the published code's pair of images and mask."""
    from util.misc import NestedTensor

    if padding is None:
        padding = torch.zeros(images.shape[0], *images.shape[-2:], dtype=torch.bool)
    return NestedTensor(images, padding)


def stacked(outputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, B, Q, K] and boxes [N, B, Q, 4] of all layers, the last at -1."""
    layers = [*outputs["aux_outputs"], outputs]
    return torch.stack([o["pred_logits"] for o in layers]), torch.stack([o["pred_boxes"] for o in layers])
