"""Masks of the objects of a dataset, compressed; those of one image are decoded when it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.errors import UserError
from detrscope.data.coco_masks import PngSegment, pack_mask, unpack_mask
from detrscope.data.dataset import DetectionDataset


class ObjectMasks:
    """Run lengths of the masks of all objects, in the order of images and annotations, crowds left out.

    An object without a mask, or with one that cannot be decoded, has an empty one: it teaches its class and box only.

    Args:
        dataset: Dataset opened with `details`.

    Raises:
        UserError: no object has a mask.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self._packed: list[Any] = []
        for image in dataset.images:
            for a in dataset.annotations[image.id]:
                if not a.iscrowd:
                    mask = a.segmentation  # a file of segments is read with its image, since that takes time
                    self._packed.append(
                        mask if isinstance(mask, PngSegment) else pack_mask(mask, image.height, image.width)
                    )
        without = self._packed.count(None)
        if self._packed and without == len(self._packed):
            raise UserError(
                f"{dataset.name}: none of its {without} objects has a mask (COCO's 'segmentation': polygons or run"
                " lengths); give data with masks, or train without a mask head (model.mask_head none)"
            )
        if without:
            log.warning(
                "%s: %d of %d objects have no mask, or none that can be decoded: they teach classes and boxes only",
                dataset.name,
                without,
                len(self._packed),
            )

    def decoded(self, rows: Iterable[int], height: int, width: int) -> Tensor:
        """Return the masks of some objects of one image, uint8 [M, H, W] of 0 and 1.

        Raises:
            UserError: a file of segments cannot be read.
        """
        masks = [self._decoded(self._packed[row], height, width) for row in rows]
        return (
            torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, height, width, dtype=torch.uint8)
        )

    def _decoded(self, packed: Any, height: int, width: int) -> np.ndarray:
        if isinstance(packed, PngSegment):
            pixels = packed.mask(height, width)
            if pixels is None:
                raise UserError(
                    f"{packed.path}: cannot be read as a PNG file of {width}x{height} segment ids"
                )
            return pixels.astype(np.uint8)
        return np.zeros((height, width), np.uint8) if packed is None else unpack_mask(packed)
