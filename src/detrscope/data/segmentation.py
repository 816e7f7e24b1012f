"""The object, and where known its part, under each pixel of an annotated image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detrscope.data.coco_masks import decode_mask
from detrscope.data.dataset import Annotation, ImageInfo
from detrscope.data.part_masks import has_part_mask, read_part_mask

OBJECT, OTHERS, BACKGROUND, BOX, OUTSIDE = "object", "other objects", "background", "box", "outside the box"


@dataclass(frozen=True)
class SegmentationMap:
    """Object and part under each pixel of an image.

    Attributes:
        instance: [H, W] uint8, 1 + index of the object among the annotations, 0 where there is none.
        parts: [H, W] uint8, number of the part; None where parts are not known.
        part_names: Names of the parts 1, 2, ...
    """

    instance: np.ndarray
    parts: np.ndarray | None = None
    part_names: tuple[str, ...] = ()

    def overview(self, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return one label per pixel: the part where parts are known, else the class, or the background.

        Args:
            classes: Class name of each annotation.

        Returns:
            Labels, uint8 [H, W], and the name of each label.
        """
        if self.parts is not None:
            return np.where(self.parts <= len(self.part_names), self.parts, 0), (BACKGROUND, *self.part_names)
        names = sorted(set(classes))
        labels = np.zeros(256, np.uint8)  # by the value in `instance`
        labels[1 : len(classes) + 1] = [1 + names.index(name) for name in classes]
        return labels[self.instance], (BACKGROUND, *names)

    def regions(self, index: int) -> tuple[tuple[str, ...], Tensor]:
        """Return the regions on which attention for one object is measured: names, and masks [r, H, W] bool.

        `object` is all of it; its parts, the other objects and the background partition the image.
        """
        own = self.instance == index + 1
        masks = {OBJECT: own}
        if self.parts is not None:
            masks |= {name: own & (self.parts == part) for part, name in enumerate(self.part_names, start=1)}
        masks[OTHERS] = (self.instance > 0) & ~own
        masks[BACKGROUND] = self.instance == 0
        return tuple(masks), torch.from_numpy(np.stack(list(masks.values())))


def segmentation_of(image: ImageInfo, annotations: Sequence[Annotation]) -> SegmentationMap | None:
    """Return the segmentation of an image: its part mask, else the masks of all annotations.

    Where masks overlap, the smaller object lies on top. None where an annotation has no mask.

    Raises:
        UserError: the image has a part mask that cannot be read.
    """
    if has_part_mask(image.path):
        parts, instance, names = read_part_mask(image.path)
        return SegmentationMap(instance, parts, names)
    if not annotations or len(annotations) > 255:
        return None
    instance = np.zeros((image.height, image.width), dtype=np.uint8)
    for index in sorted(range(len(annotations)), key=lambda i: -annotations[i].area):
        mask = decode_mask(annotations[index].segmentation, image.height, image.width)
        if mask is None:
            return None
        instance[mask] = index + 1
    return SegmentationMap(instance)


def segmentation_of_box(box_xywh: Sequence[float], height: int, width: int) -> tuple[tuple[str, ...], Tensor]:
    """Return the inside and outside of a box, rounded to whole pixels: names, and masks [2, H, W] bool."""
    x, y, w, h = box_xywh
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[round(y) : max(round(y) + 1, round(y + h)), round(x) : max(round(x) + 1, round(x + w))] = True
    return (BOX, OUTSIDE), torch.stack([inside, ~inside])
