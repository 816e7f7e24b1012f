"""Training images that are made of several: mosaics, blends and pasted objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detrscope.core.preprocessing import resized_size
from detrscope.core.types import Target

# DEIM (arXiv:2412.04234), its published configs.
ROTATION = 10.0  # degrees, either way
SHIFT = (0.1, 0.1)  # of width and height, either way
SCALE = (0.5, 1.5)
BLEND = (0.45, 0.55)  # share of the first image
PASTED = 0.5  # chance of each object of the other image
SIZES = (0.5, 1.0)  # of a pasted image, relative to the largest that fits
HIDDEN = 0.7  # share of an object that may be covered; more of it, and it is left out


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
        copy_paste: chance to paste objects of another image.
    """

    mosaic: float
    side: int
    mixup: float
    copy_paste: float = 0.0

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

    @staticmethod
    def paste(onto: Labelled, other: Labelled) -> Labelled:
        """Paste drawn objects of another image, shrunk and moved together (Simple Copy-Paste, arXiv:2012.07177).

        Objects are cut out by their masks where both images have them, else by their boxes. What lies below loses the
        pixels that are covered, and is left out where more than `HIDDEN` of it are; masks are cut, and their boxes
        follow as far as the mask does.

        Args:
            onto: the image to paste on; its size stays.
            other: the image to take objects from, each with the chance `PASTED`.
        """
        height, width = onto.pixels.shape[-2:]
        fit = min(height / other.pixels.shape[-2], width / other.pixels.shape[-1])
        scale = fit * (SIZES[0] + (SIZES[1] - SIZES[0]) * float(torch.rand(())))
        part = _scaled(other, [max(1, round(scale * side)) for side in other.pixels.shape[-2:]])
        if drawn(0.5):
            part = _mirrored(part)
        top, left = (
            int(torch.randint(whole - side + 1, ()))
            for whole, side in zip((height, width), part.pixels.shape[-2:], strict=True)
        )
        window = (..., slice(top, top + part.pixels.shape[-2]), slice(left, left + part.pixels.shape[-1]))
        taken = torch.rand(len(part.labels)) < PASTED
        if onto.masks is not None and part.masks is not None:
            taken &= (part.masks > 0).any(2).any(1)  # an object whose mask is unknown cannot be cut out
        boxes = part.boxes_xyxy[taken] + part.boxes_xyxy.new_tensor([left, top, left, top])
        masks = None
        if onto.masks is not None and part.masks is not None:
            masks = onto.masks.new_zeros(len(boxes), height, width)
            masks[window] = part.masks[taken]
        shape = (masks > 0).any(0) if masks is not None else _inside(boxes, height, width).any(0)  # [H, W]
        pasted = torch.zeros_like(onto.pixels)
        pasted[window] = part.pixels
        below = _uncovered(onto, shape)
        return Labelled(
            torch.where(shape, pasted, onto.pixels),
            torch.cat([below.boxes_xyxy, boxes]),
            torch.cat([below.labels, part.labels[taken]]),
            None if masks is None or below.masks is None else torch.cat([below.masks, masks]),
        )

    def _resized(self, image: Labelled) -> Labelled:
        height, width = image.pixels.shape[-2:]
        size = resized_size(height, width, self.side, max(height, width) * self.side)
        return _scaled(image, list(size))


def _scaled(image: Labelled, size: list[int]) -> Labelled:
    height, width = image.pixels.shape[-2:]
    scale = image.boxes_xyxy.new_tensor([size[1] / width, size[0] / height] * 2)
    masks = None if image.masks is None else F.resize_mask(image.masks, size)
    return Labelled(
        F.resize(image.pixels, size, antialias=True), image.boxes_xyxy * scale, image.labels, masks
    )


def _mirrored(image: Labelled) -> Labelled:
    pixels, boxes, labels, masks = image
    size = (pixels.shape[-2], pixels.shape[-1])
    mirrored = F.horizontal_flip(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size))
    return Labelled(
        F.horizontal_flip(pixels),
        mirrored.as_subclass(Tensor),
        labels,
        None if masks is None else F.horizontal_flip(masks),
    )


def _inside(boxes_xyxy: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels' centres lie in each box, bool [M, H, W]."""
    x0, y0, x1, y1 = (side[:, None] for side in boxes_xyxy.unbind(1))
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    return ((y0 <= y) & (y < y1))[:, :, None] & ((x0 <= x) & (x < x1))[:, None]


def _uncovered(image: Labelled, cover: Tensor) -> Labelled:
    """Return the objects of an image that the covered pixels, bool [H, W], leave enough of."""
    height, width = cover.shape
    shapes = image.masks > 0 if image.masks is not None else _inside(image.boxes_xyxy, height, width)
    seen = shapes & ~cover  # [M, H, W]
    whole, left = shapes.sum((1, 2)), seen.sum((1, 2))
    kept = left >= (1 - HIDDEN) * whole
    boxes, masks = image.boxes_xyxy[kept], None
    if image.masks is not None:
        masks = seen[kept].to(image.masks.dtype)
        cut = (left < whole)[kept]
        boxes = boxes.clone()
        boxes[cut] = masks_to_boxes(masks[cut]) + boxes.new_tensor([0, 0, 1, 1])
    return Labelled(image.pixels, boxes, image.labels[kept], masks)


def drawn(chance: float) -> bool:
    """Draw whether something of a chance happens; nothing is drawn at 0."""
    return chance > 0 and float(torch.rand(())) < chance
