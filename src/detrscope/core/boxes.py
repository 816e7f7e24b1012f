"""Convert between box formats."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert boxes from centre and size to corners: [..., 4] -> [..., 4]."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert boxes from corners to centre and size: [..., 4] -> [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def scale_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """Scale boxes [..., 4] in 0..1 to pixels of an image; cxcywh and xyxy alike, since both alternate x and y."""
    return boxes * boxes.new_tensor([width, height, width, height])
