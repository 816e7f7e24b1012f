"""Training images that are made of several: mosaics and blends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detrscope.core.preprocessing import resized_size
from detrscope.core.types import Target

# DEIM (arXiv:2412.04234), its published configs.
ROTATION = 10.0  # degrees, either way
SHIFT = (0.1, 0.1)  # of width and height, either way
SCALE = (0.5, 1.5)
BLEND = (0.45, 0.55)  # share of the first image


class Labelled(NamedTuple):
    """An image with its ground truth, before the transform."""

    pixels: Tensor  # uint8 [3, H, W]
    boxes_xyxy: Tensor  # [M, 4] pixels
    labels: Tensor  # [M]
    masks: Tensor | None = None  # uint8 [M, H, W] of 0 and 1, where they are learned


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
        parts = [self._resized(read(i)) for i in indices]
        height = max(part.pixels.shape[-2] for part in parts)
        width = max(part.pixels.shape[-1] for part in parts)
        canvas = torch.zeros(3, 2 * height, 2 * width, dtype=torch.uint8)
        boxes, masks = [], []
        for place, part in enumerate(parts):
            top, left = place // 2 * height, place % 2 * width
            window = (..., slice(top, top + part.pixels.shape[-2]), slice(left, left + part.pixels.shape[-1]))
            canvas[window] = part.pixels
            boxes.append(part.boxes_xyxy + part.boxes_xyxy.new_tensor([left, top, left, top]))
            if part.masks is not None:
                masks.append(part.masks.new_zeros(len(part.masks), 2 * height, 2 * width))
                masks[-1][window] = part.masks
        size = (2 * height, 2 * width)
        together = tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=size)
        affine = v2.RandomAffine(ROTATION, translate=SHIFT, scale=SCALE, fill=0)
        inputs = (tv_tensors.Image(canvas), together, *(tv_tensors.Mask(torch.cat(masks)) for _ in masks[:1]))
        image, moved, *rest = affine(*inputs)
        inside = F.clamp_bounding_boxes(moved).as_subclass(Tensor)
        labels = torch.cat([part.labels for part in parts])
        return Labelled(image.as_subclass(Tensor), inside, labels, *(m.as_subclass(Tensor) for m in rest))

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
            masks=None
            if target.masks is None or more.masks is None
            else torch.cat([target.masks, more.masks]),
        )

    def _resized(self, image: Labelled) -> Labelled:
        height, width = image.pixels.shape[-2:]
        size = resized_size(height, width, self.side, max(height, width) * self.side)
        scale = image.boxes_xyxy.new_tensor([size[1] / width, size[0] / height] * 2)
        masks = None if image.masks is None else F.resize_mask(image.masks, list(size))
        return Labelled(
            F.resize(image.pixels, list(size), antialias=True), image.boxes_xyxy * scale, image.labels, masks
        )


def drawn(chance: float) -> bool:
    """Draw whether something of a chance happens; nothing is drawn at 0."""
    return chance > 0 and float(torch.rand(())) < chance
