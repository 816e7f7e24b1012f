"""A detection dataset as plain data, whatever it was read from, and as the torch dataset of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.types import Target
from detrscope.data.image_reader import read_image
from detrscope.data.pixel_cache import PixelCache

Box = tuple[float, float, float, float]
Transform = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Target]]
"""(uint8 [3, H, W], boxes_xyxy float32 [M, 4] pixels, labels int64 [M]) -> (float32 [3, h, w], Target)"""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image: its original id, its file, its size when upright (0 where neither file nor annotations tell it)."""

    id: int
    path: Path
    width: int
    height: int
    details: Mapping[str, Any] = field(
        default_factory=dict
    )  # such as the licence; kept when a reader is asked to


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object.

    `bbox_xywh` is inside the upright image and not empty: what a model learns from. AP is computed on what was
    declared, as pycocotools does.
    """

    id: int
    category_id: int  # original
    bbox_xywh: Box  # left, top, width, height in pixels
    area: float  # of the mask where the source knows it, else of the box
    iscrowd: bool = False
    segmentation: Any = None  # as COCO writes it; kept when a reader is asked to
    declared_xywh: Box | None = None  # in the upright image's frame, where it differs from bbox_xywh
    declared_area: float | None = None  # where it differs from area


@dataclass(frozen=True)
class DetectionDataset:
    """Images in order, their annotations by image id (every image has an entry, maybe empty), the classes."""

    images: tuple[ImageInfo, ...]
    annotations: dict[int, tuple[Annotation, ...]]
    classes: ClassTable
    name: str
    details: Mapping[str, Any] = field(default_factory=dict)  # such as the list of licences
    # Empty boxes and boxes outside of their image, by image id: nothing to learn, but part of the ground truth of AP.
    unusable: Mapping[int, tuple[Annotation, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def _by_id(self) -> dict[int, ImageInfo]:
        return {image.id: image for image in self.images}

    def image(self, image_id: int) -> ImageInfo:
        """The image of an id.

        Raises:
            UserError: there is none.
        """
        if image_id not in self._by_id:
            raise UserError(f"{self.name}: no image has the id {image_id}")
        return self._by_id[image_id]

    def subset(self, image_ids: Iterable[int]) -> DetectionDataset:
        """Some of the images, in the order given, with all classes.

        Raises:
            UserError: an id is not in the dataset.
        """
        images = tuple(self.image(i) for i in image_ids)
        return replace(
            self,
            images=images,
            annotations={i.id: self.annotations[i.id] for i in images},
            unusable={i.id: self.unusable[i.id] for i in images if i.id in self.unusable},
        )

    def coco_json(self) -> dict[str, Any]:
        """COCO's dictionary of the ground truth: original image and category ids, crowds included, boxes as declared.

        Annotation ids are the original ones unless two are equal or one is not positive (COCO's evaluation
        takes a match with annotation 0 as no match); then they count from 1.
        """
        declared = {i.id: (*self.annotations[i.id], *self.unusable.get(i.id, ())) for i in self.images}
        ids = [a.id for rows in declared.values() for a in rows]
        renumber = len(set(ids)) < len(ids) or min(ids, default=1) <= 0
        rows: list[dict[str, Any]] = []
        for image in self.images:
            for a in declared[image.id]:
                row = {
                    "id": len(rows) + 1 if renumber else a.id,
                    "image_id": image.id,
                    "category_id": a.category_id,
                    "bbox": list(a.bbox_xywh if a.declared_xywh is None else a.declared_xywh),
                    "area": a.area if a.declared_area is None else a.declared_area,
                    "iscrowd": int(a.iscrowd),
                }
                if a.segmentation is not None:
                    row["segmentation"] = a.segmentation
                rows.append(row)
        images = [
            {**i.details, "id": i.id, "file_name": i.path.name, "width": i.width, "height": i.height}
            for i in self.images
        ]
        return {**self.details, "images": images, "annotations": rows, "categories": self.classes.to_json()}


@dataclass(frozen=True)
class Sample:
    """One image as the model sees it, with its truth."""

    image: Tensor  # [3, H, W] float32, normalised
    target: Target
    image_id: int
    size: tuple[int, int]  # height, width of the original upright image


class TransformedDataset(torch.utils.data.Dataset[Sample]):
    """Samples: decoded, transformed, crowds left out.

    An item is asked for by its index, or by `(epoch seed, index)`: then whatever is random in the transform
    depends on these two only, not on the worker, the order or what was read before.
    """

    def __init__(self, dataset: DetectionDataset, transform: Transform, cache: bool = False) -> None:
        """Takes the dataset apart into flat arrays, which worker processes share without copying.

        Args:
            dataset: what to read.
            transform: from the pixels of the file to what the model sees.
            cache: decode every image now and keep its pixels in memory.

        Raises:
            UserError: the cache does not fit into memory, or an image cannot be read.
        """
        self.name = dataset.name
        self.classes = dataset.classes
        self.transform = transform
        self._paths = [str(i.path) for i in dataset.images]
        self._ids = np.array([i.id for i in dataset.images], dtype=np.int64)
        self._sizes = np.array([(i.height, i.width) for i in dataset.images], dtype=np.int64).reshape(-1, 2)
        kept = [[a for a in dataset.annotations[i.id] if not a.iscrowd] for i in dataset.images]
        index_of = {category: index for index, category in enumerate(dataset.classes.ids)}
        self._starts = np.cumsum([0, *map(len, kept)])
        boxes = np.array([a.bbox_xywh for row in kept for a in row], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        self._boxes_xyxy = torch.from_numpy(boxes).float()  # [all, 4] pixels
        labels = [index_of[a.category_id] for row in kept for a in row]
        self._labels = torch.tensor(labels, dtype=torch.int64)  # [all]
        self._cache = PixelCache.filled(self.name, self._sizes, self._read) if cache else None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        if not isinstance(key, tuple):
            return self._sample(key)
        epoch_seed, index = key
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence([epoch_seed, index]).generate_state(1, np.uint64)[0]
            torch.default_generator.manual_seed(
                int(seed)
            )  # not torch.manual_seed, which would reseed the GPU too
            return self._sample(index)

    def truth(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes [M, 4] in pixels of the original image and labels [M], before the transform."""
        rows = slice(self._starts[index], self._starts[index + 1])
        return self._boxes_xyxy[rows], self._labels[rows]

    def pixels(self, index: int) -> Tensor:
        """The image before the transform, uint8 [3, H, W].

        Raises:
            UserError: it cannot be read, or is not of the size that the annotations are for.
        """
        return self._read(index) if self._cache is None else self._cache[index]

    def _sample(self, index: int) -> Sample:
        boxes, labels = self.truth(index)
        image, target = self.transform(self.pixels(index), boxes.clone(), labels.clone())
        height, width = self._sizes[index].tolist()
        return Sample(image, target, int(self._ids[index]), (height, width))

    def _read(self, index: int) -> Tensor:
        image = read_image(self._paths[index])
        height, width = self._sizes[index]
        if image.shape[1:] != (height, width):
            raise UserError(
                f"{self._paths[index]}: {image.shape[2]}x{image.shape[1]} pixels, but {self.name} expects "
                f"{width}x{height}; run `detrscope data check`"
            )
        return image
