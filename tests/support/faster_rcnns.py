"""Small Faster R-CNN of torchvision, with random weights, and files of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.models.detection import FasterRCNN

from detrscope.checkpoints.native import save_checkpoint
from detrscope.core.classes import ClassTable
from detrscope.core.preprocessing import Preprocessing
from detrscope.inference.faster_rcnn import FasterRcnnConfig, build_faster_rcnn, faster_rcnn_card

SMALL = FasterRcnnConfig(
    backbone="resnet18", stages=(2, 3), anchors=(16, 32, 48), representation=32, proposals=60
)
SIDES = Preprocessing(64, 96)
CLASSES = ClassTable((1, 7, 900), ("cell", "dog", "far"))


def small_faster_rcnn(seed: int = 0, classes: int = len(CLASSES)) -> FasterRCNN:
    """A model whose scores differ from box to box, as random weights alone would not make them."""
    torch.manual_seed(seed)
    model = build_faster_rcnn(SMALL, classes, SIDES).eval()
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(200)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(10)
    return model


def write_faster_rcnn(path: Path, classes: ClassTable = CLASSES, seed: int = 0) -> Path:
    """Write a small model with its card."""
    save_checkpoint(
        path,
        small_faster_rcnn(seed, len(classes)),
        faster_rcnn_card("fasterrcnn-r18-fpn", SMALL, classes, SIDES, "random"),
    )
    return path


def noise_image(height: int = 70, width: int = 110, seed: int = 0) -> torch.Tensor:
    """uint8 [3, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(
        0, 256, (3, height // 8 + 1, width // 8 + 1), dtype=torch.uint8, generator=generator
    )
    return coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].contiguous()
