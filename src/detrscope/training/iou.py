"""IoU and generalised IoU of boxes that broadcast: pairs side by side, or all against all."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-12  # keeps the ratio of two empty boxes finite


def iou_and_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersection over union, and generalised IoU (Rezatofighi et al. 2019, arXiv:1902.09630, algorithm 1).

    Args:
        a_xyxy: corners, [..., 4], any unit.
        b_xyxy: corners in the same unit, [..., 4]; leading axes broadcast against those of `a_xyxy`.

    Returns:
        IoU in 0..1 and GIoU in -1..1, each of the broadcast leading shape.
    """
    ax0, ay0, ax1, ay1 = a_xyxy.unbind(-1)
    bx0, by0, bx1, by1 = b_xyxy.unbind(-1)
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    height = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    inner = width * height
    union = ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inner).clamp(min=SMALLEST)
    hull_width = torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)
    hull_height = torch.maximum(ay1, by1) - torch.minimum(ay0, by0)
    hull = (hull_width * hull_height).clamp(min=SMALLEST)
    iou = inner / union
    return iou, iou - (hull - union) / hull
