"""A detection dataset: plain data, the same for every source format, and the torch dataset of its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.types import Target
from detrscope.data.batch_draw import BatchDraw, ImageKey
from detrscope.data.coco_masks import PngSegment, pack_mask
from detrscope.data.image_reader import read_image
from detrscope.data.mixing import Labelled, Mixing, drawn
from detrscope.data.parse_values import parse_integer
from detrscope.data.pixel_cache import PixelCache

Box = tuple[float, float, float, float]
Transform = Callable[..., tuple[Tensor, Target]]
"""(uint8 [3, H, W], boxes_xyxy float32 [M, 4] pixels, labels int64 [M]) -> (float32 [3, h, w], Target)

Where masks are learned, a fourth argument has them: uint8 [M, H, W] of 0 and 1.
"""


@runtime_checkable
class BatchTransform(Protocol):
    """A transform of training, which depends on what the batch has drawn."""

    def for_batch(self, draw: BatchDraw) -> Transform:
        """Return the transform of the images of one batch."""

    def __call__(
        self, image: Tensor, boxes_xyxy: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Target]:
        """Transform an image of any batch."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image: its original id, its file and its upright size.

    A reader gives the size that the source declares; `clean_dataset` replaces it by that of the file.
    """

    id: int
    path: Path
    width: int = 0  # pixels; 0 where it is not known
    height: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)  # such as the licence; read on request


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object.

    A reader gives box and area as declared. `clean_dataset` cuts the box to the upright image, which is what a model
    learns from, and keeps what was declared for AP, as pycocotools does.
    """

    id: int
    image_id: int
    category_id: int  # original
    bbox_xywh: Box  # left, top, width, height in pixels
    area: float  # pixels, of the mask where the source has one, else of the box; NaN: not declared
    iscrowd: bool = False
    segmentation: Any = None  # as COCO writes it; read on request
    declared_xywh: Box | None = None  # in the upright image's frame, where it differs from bbox_xywh
    declared_area: float | None = None  # where it differs from area


@dataclass(frozen=True)
class DetectionDataset:
    """Images in order, annotations by image id (every image has an entry), classes."""

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
        """Return the image with an id.

        Raises:
            UserError: there is none.
        """
        if image_id not in self._by_id:
            raise UserError(f"{self.name}: no image has the id {image_id}")
        return self._by_id[image_id]

    def subset(self, image_ids: Iterable[int]) -> DetectionDataset:
        """Return a dataset of some images, in the order given, with all classes.

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

    def annotation_ids(self) -> list[int]:
        """Return the original ids of the annotations of `coco_json`, in its order."""
        return [a.id for i in self.images for a in (*self.annotations[i.id], *self.unusable.get(i.id, ()))]

    def coco_json(self) -> dict[str, Any]:
        """Return the ground truth as a COCO dictionary: original ids, crowds included, boxes as declared.

        Annotation ids are the original ones unless two are equal or one is not positive (COCO's evaluation
        takes a match with annotation 0 as no match); then they count from 1.
        """
        boxes = {i.id: (*self.annotations[i.id], *self.unusable.get(i.id, ())) for i in self.images}
        ids = [a.id for rows in boxes.values() for a in rows]
        renumber = len(set(ids)) < len(ids) or min(ids, default=1) <= 0
        rows: list[dict[str, Any]] = []
        for image in self.images:
            for a in boxes[image.id]:
                row = {
                    "id": len(rows) + 1 if renumber else a.id,
                    "image_id": image.id,
                    "category_id": a.category_id,
                    "bbox": list(a.bbox_xywh if a.declared_xywh is None else a.declared_xywh),
                    "area": a.area if a.declared_area is None else a.declared_area,
                    "iscrowd": int(a.iscrowd),
                }
                mask = a.segmentation
                if isinstance(mask, PngSegment):
                    mask = pack_mask(mask, image.height, image.width)
                if mask is not None:
                    row["segmentation"] = mask
                rows.append(row)
        images = [
            {**i.details, "id": i.id, "file_name": i.path.name, "width": i.width, "height": i.height}
            for i in self.images
        ]
        # Other fields of the categories, such as `supercategory`, and `frequency` of LVIS.
        declared = {parse_integer(row.get("id")): row for row in self.details.get("categories", ())}
        categories = [{**declared.get(int(row["id"]), {}), **row} for row in self.classes.to_json()]
        return {**self.details, "images": images, "annotations": rows, "categories": categories}


@dataclass(frozen=True)
class SampleInfo:
    """Origin of a sample."""

    image_id: int
    size: tuple[int, int]  # height, width of the original upright image


@dataclass(frozen=True)
class Sample:
    """Transformed image with its target."""

    image: Tensor  # [3, H, W] float32, normalised
    target: Target
    info: SampleInfo


class MaskReader(Protocol):
    """Reader of the masks of objects, such as `ObjectMasks`."""

    def decoded(self, rows: Iterable[int], height: int, width: int) -> Tensor:
        """Return the masks of some objects of one image, uint8 [M, H, W] of 0 and 1."""
        ...


class TransformedDataset(torch.utils.data.Dataset[Sample]):
    """Samples of a dataset: decoded, transformed, crowds left out.

    Boxes and ids are flat arrays, which worker processes share without copying.

    Indexed by an image's index, by `(epoch seed, index)`, or by that and what its batch drew: then all randomness of
    the transform depends on seed and index only, not on the worker, the order or what was read before.

    Args:
        dataset: Dataset to read.
        transform: Transform from the pixels of the file to the input of the model.
        cache: Whether to decode every image now and keep its pixels in memory.
        mixing: Chances to make an image of several.
        masks: Masks of the dataset's objects, for targets that have them; None for boxes only.

    Raises:
        UserError: the cache does not fit into memory, or an image cannot be read.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: Transform | BatchTransform,
        cache: bool = False,
        mixing: Mixing | None = None,
        masks: MaskReader | None = None,
    ) -> None:
        self.name = dataset.name
        self.classes = dataset.classes
        self.transform = transform
        self.mixing = mixing
        self._masks = masks
        self._paths = [str(i.path) for i in dataset.images]
        self._ids = np.array([i.id for i in dataset.images], dtype=np.int64)
        self._sizes = np.array([(i.height, i.width) for i in dataset.images], dtype=np.int64).reshape(-1, 2)
        objects = [[a for a in dataset.annotations[i.id] if not a.iscrowd] for i in dataset.images]
        index_of = {category: index for index, category in enumerate(dataset.classes.ids)}
        self._starts = np.cumsum([0, *map(len, objects)])
        boxes = np.array([a.bbox_xywh for row in objects for a in row], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        self._boxes_xyxy = torch.from_numpy(boxes).float()  # [all, 4] pixels
        labels = [index_of[a.category_id] for row in objects for a in row]
        self._labels = torch.tensor(labels, dtype=torch.int64)  # [all]
        self._cache = PixelCache.filled(self.name, self._sizes, self._read) if cache else None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, key: int | tuple[int, int] | ImageKey) -> Sample:
        if not isinstance(key, tuple):
            return self._sample(key, None)
        epoch_seed, index = key[:2]
        draw = key.draw if isinstance(key, ImageKey) else None
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence([epoch_seed, index]).generate_state(1, np.uint64)[0]
            # torch.manual_seed would reseed the GPU too.
            torch.default_generator.manual_seed(int(seed))
            return self._sample(index, draw)

    def ground_truth(self, index: int) -> tuple[Tensor, Tensor]:
        """Return boxes [M, 4] in pixels of the original image and labels [M], before the transform."""
        rows = slice(self._starts[index], self._starts[index + 1])
        return self._boxes_xyxy[rows], self._labels[rows]

    def pixels(self, index: int) -> Tensor:
        """Return the image before the transform, uint8 [3, H, W].

        Raises:
            UserError: it cannot be read, or is not of the size that the annotations are for.
        """
        return self._read(index) if self._cache is None else self._cache[index]

    def _sample(self, index: int, draw: BatchDraw | None) -> Sample:
        mixing = self.mixing if draw is None or draw.strong else None
        image, target = self._transformed(index, draw, mixing)
        if mixing is not None and drawn(mixing.mixup):
            other = int(torch.randint(len(self), ()))
            image, target = mixing.blend((image, target), self._transformed(other, draw, mixing))
        height, width = self._sizes[index].tolist()
        return Sample(image, target, SampleInfo(int(self._ids[index]), (height, width)))

    def _transformed(
        self, index: int, draw: BatchDraw | None, mixing: Mixing | None
    ) -> tuple[Tensor, Target]:
        transform = self.transform
        if draw is not None and isinstance(transform, BatchTransform):
            transform = transform.for_batch(draw)
        if mixing is not None and drawn(mixing.mosaic):
            labelled = mixing.join(self._labelled, index, len(self))
        else:
            labelled = self._labelled(index)
        if mixing is not None and drawn(mixing.copy_paste):
            labelled = mixing.paste(labelled, self._labelled(int(torch.randint(len(self), ()))))
        return transform(*(part for part in labelled if part is not None))

    def _labelled(self, index: int) -> Labelled:
        boxes, labels = self.ground_truth(index)
        pixels, masks = self.pixels(index), None
        if self._masks is not None:
            height, width = pixels.shape[1:]
            masks = self._masks.decoded(range(self._starts[index], self._starts[index + 1]), height, width)
        return Labelled(pixels, boxes.clone(), labels.clone(), masks)

    def _read(self, index: int) -> Tensor:
        image = read_image(self._paths[index])
        height, width = self._sizes[index]
        if image.shape[1:] != (height, width):
            raise UserError(
                f"{self._paths[index]}: {image.shape[2]}x{image.shape[1]} pixels, but {self.name} expects "
                f"{width}x{height}; run `detrscope data check`"
            )
        return image
