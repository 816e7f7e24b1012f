"""Training images that are made of several: mosaics and blends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detrscope.core.preprocessing import resized_size
from detrscope.core.types import Target

Labelled = tuple[Tensor, Tensor, Tensor]  # uint8 [3, H, W], boxes xyxy [M, 4] in pixels, labels [M]
# DEIM (arXiv:2412.04234), its published configs.
ROTATION = 10.0  # degrees, either way
SHIFT = (0.1, 0.1)  # of width and height, either way
SCALE = (0.5, 1.5)
BLEND = (0.45, 0.55)  # share of the first image


@dataclass(frozen=True)
class Mixing:
    """Chances to make a training image of several.

    Attributes:
        mosaic: chance to join four images.
        side: short side of an image in a mosaic, in pixels.
        mixup: chance to blend two transformed images of the same size.
    """

    mosaic: float
    side: int
    mixup: float

    def join(self, read: Callable[[int], Labelled], index: int, count: int) -> Labelled:
        """Join an image with three drawn ones, turned, shifted and scaled together (YOLOv4, arXiv:2004.10934).

        Args:
            read: returns an image of an index with its boxes and labels.
            index: index of the first.
            count: images to draw from.
        """
        indices = [index, *torch.randint(count, (3,)).tolist()]
        parts = [self._resized(*read(i)) for i in indices]
        height = max(pixels.shape[-2] for pixels, _, _ in parts)
        width = max(pixels.shape[-1] for pixels, _, _ in parts)
        canvas = torch.zeros(3, 2 * height, 2 * width, dtype=torch.uint8)
        boxes = []
        for place, (pixels, boxes_xyxy, _) in enumerate(parts):
            top, left = place // 2 * height, place % 2 * width
            canvas[:, top : top + pixels.shape[-2], left : left + pixels.shape[-1]] = pixels
            boxes.append(boxes_xyxy + boxes_xyxy.new_tensor([left, top, left, top]))
        size = (2 * height, 2 * width)
        together = tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=size)
        affine = v2.RandomAffine(ROTATION, translate=SHIFT, scale=SCALE, fill=0)
        image, moved = affine(tv_tensors.Image(canvas), together)
        inside = F.clamp_bounding_boxes(moved).as_subclass(Tensor)
        return image.as_subclass(Tensor), inside, torch.cat([labels for _, _, labels in parts])

    def blend(self, first: tuple[Tensor, Target], second: tuple[Tensor, Target]) -> tuple[Tensor, Target]:
        """Blend two images of the same size about half and half, with the boxes of both (arXiv:1710.09412).

        Args:
            first: float32 [3, H, W] and its target.
            second: another.
        """
        share = BLEND[0] + (BLEND[1] - BLEND[0]) * float(torch.rand(()))
        (image, target), (other, more) = first, second
        return torch.lerp(other, image, share), Target(
            labels=torch.cat([target.labels, more.labels]),
            boxes_cxcywh=torch.cat([target.boxes_cxcywh, more.boxes_cxcywh]),
        )

    def _resized(self, pixels: Tensor, boxes_xyxy: Tensor, labels: Tensor) -> Labelled:
        height, width = pixels.shape[-2:]
        size = resized_size(height, width, self.side, max(height, width) * self.side)
        scale = boxes_xyxy.new_tensor([size[1] / width, size[0] / height] * 2)
        return F.resize(pixels, list(size), antialias=True), boxes_xyxy * scale, labels


def drawn(chance: float) -> bool:
    """Draw whether something of a chance happens; nothing is drawn at 0."""
    return chance > 0 and float(torch.rand(())) < chance
