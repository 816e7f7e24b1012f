"""Box formats. IoU and generalised IoU come from torchvision.ops where a full matrix is wanted."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners, any leading axes. [..., 4] -> [..., 4]."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size, any leading axes. [..., 4] -> [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def scale_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """0..1 boxes to pixels of an image of `width` x `height` (either format, since both alternate x and y)."""
    return boxes * boxes.new_tensor([width, height, width, height])
