"""What lies under each pixel of an annotated image: which object, and which part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from detrscope.data.dataset import Annotation, ImageInfo
from detrscope.synthetic.parts import NAMES, read_parts

OBJECT, OTHERS, BACKGROUND, BOX, OUTSIDE = "object", "other objects", "background", "box", "outside the box"


@dataclass(frozen=True)
class SegmentationMap:
    """Which object lies under each pixel, and which part of it.

    Attributes:
        instance: [H, W] uint8, 1 + the object's place among the annotations, 0 where there is none.
        parts: [H, W] uint8, number of the part; None where parts are not known.
        part_names: of the numbers.
    """

    instance: np.ndarray
    parts: np.ndarray | None = None
    part_names: tuple[tuple[int, str], ...] = ()

    def overview(self, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """What lies under each pixel: parts where they are known, else classes, and the background.

        Args:
            classes: the class of each object, by its place among the annotations.

        Returns:
            uint8 [H, W] of places in the names, and the names.
        """
        if self.parts is not None:
            numbers = {number: i for i, (number, _) in enumerate(self.part_names, start=1)}
            names = [name for _, name in self.part_names]
            under = self.parts
        else:
            names = sorted(set(classes))
            numbers = {place: 1 + names.index(name) for place, name in enumerate(classes, start=1)}
            under = self.instance
        table = np.zeros(256, np.uint8)
        for number, index in numbers.items():
            table[number] = index
        return table[under], (BACKGROUND, *names)

    def regions(self, place: int) -> tuple[tuple[str, ...], Tensor]:
        """What attention for one object may lie on: names, and masks [r, H, W] bool.

        `object` is all of it; its parts, other objects and the background share the image without overlap.
        """
        own = self.instance == place + 1
        masks = {OBJECT: own}
        for number, name in self.part_names if self.parts is not None else ():
            masks[name] = own & (self.parts == number)
        masks[OTHERS] = (self.instance > 0) & ~own
        masks[BACKGROUND] = self.instance == 0
        return tuple(masks), torch.from_numpy(np.stack(list(masks.values())))


def segmentation_of(image: ImageInfo, annotations: Sequence[Annotation]) -> SegmentationMap | None:
    """From the part mask beside a drawing, else from the masks of all annotations; None where one of them has none.

    Where masks overlap, the smaller object lies on top.
    """
    if _part_file(image.path).is_file():
        parts, instance = read_parts(image.path)
        return SegmentationMap(instance, parts, tuple(NAMES.items()))
    if not annotations or len(annotations) > 255:
        return None
    instance = np.zeros((image.height, image.width), dtype=np.uint8)
    for place in sorted(range(len(annotations)), key=lambda i: -annotations[i].area):
        mask = read_mask(annotations[place].segmentation, image.height, image.width)
        if mask is None:
            return None
        instance[mask] = place + 1
    return SegmentationMap(instance)


def box_regions(box_xywh: Sequence[float], height: int, width: int) -> tuple[tuple[str, ...], Tensor]:
    """Inside and outside of a box, to whole pixels: names, and masks [2, H, W] bool."""
    x, y, w, h = box_xywh
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[round(y) : max(round(y) + 1, round(y + h)), round(x) : max(round(x) + 1, round(x + w))] = True
    return (BOX, OUTSIDE), torch.stack([inside, ~inside])


def read_mask(segmentation: Any, height: int, width: int) -> np.ndarray | None:
    """A mask as COCO writes it, polygons or run lengths, as bool [H, W]; None where there is none that fits."""
    try:
        if isinstance(segmentation, dict):
            packed = _run_lengths(segmentation, height, width)
        else:
            polygons = [[float(v) for v in polygon] for polygon in segmentation]
            shapes = [p for p in polygons if len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p).all()]
            packed = rle.frPyObjects(shapes, height, width) if shapes else None
        return None if packed is None else np.asarray(rle.decode(packed)).max(-1) > 0
    except (KeyError, TypeError, ValueError):
        return None


def mask_box(segmentation: dict[str, Any], height: int, width: int) -> list[float] | None:
    """[x, y, width, height] around run lengths; None where they do not fit the image."""
    try:
        packed = _run_lengths(segmentation, height, width)
        return None if packed is None else [float(v) for v in rle.toBbox(packed)[0]]
    except (KeyError, TypeError, ValueError):
        return None


def _run_lengths(segmentation: dict[str, Any], height: int, width: int) -> list[Any] | None:
    """Run lengths as the decoder wants them; None where they are of another size."""
    counts = segmentation["counts"]
    if list(segmentation["size"]) != [height, width]:
        return None
    if isinstance(counts, str | bytes):
        return [segmentation]
    counts = [int(count) for count in counts]
    if min(counts) < 0 or sum(counts) != height * width:
        return None
    return [rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)]


def _part_file(image: Path) -> Path:
    return image.parent.parent / "parts" / image.name
