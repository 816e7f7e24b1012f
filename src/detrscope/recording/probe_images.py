"""Probe images: images recorded during training, with their ground truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detrscope.console import log
from detrscope.core.boxes import scale_boxes, xyxy_to_cxcywh
from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.types import Regions, Target
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_reader import read_upright
from detrscope.data.open_dataset import SOURCE_FORMATS, is_annotation_file, read_dataset
from detrscope.data.segmentation import SegmentationMap, segmentation_of, segmentation_of_box
from detrscope.data.validation_log import ValidationLog
from detrscope.evaluation.class_matching import match_classes
from detrscope.inference.media.sources import UniqueNames, expand_media_sources
from detrscope.training.config import RunConfig

MAX_UNCOUNTED = 32  # images of a source that are recorded without `count`


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its annotations in the terms of one model: objects of its classes, without crowds.

    Attributes:
        name: unique name, from the file.
        path: path of the file.
        image: [3, H, W] uint8, upright.
        orientation: EXIF orientation of the file.
        boxes_xyxy: [M, 4] pixels.
        labels: [M] int64, class index of the model.
        annotation_indices: M indices of the objects among all annotations of the image.
        segmentation: the object under each pixel, where it is known.
        class_names: class of every annotation, in their order.
    """

    name: str
    path: Path
    image: Tensor
    orientation: int
    boxes_xyxy: Tensor
    labels: Tensor
    annotation_indices: tuple[int, ...]
    segmentation: SegmentationMap | None = None
    class_names: tuple[str, ...] = ()

    @property
    def targets(self) -> Target:
        """Classes and boxes_cxcywh, 0..1 of the image."""
        height, width = self.image.shape[-2:]
        return Target(self.labels, scale_boxes(xyxy_to_cxcywh(self.boxes_xyxy), 1 / width, 1 / height))

    @property
    def regions(self) -> Regions | None:
        """The object or part under each pixel, where it is known."""
        if self.segmentation is None:
            return None
        labels, names = self.segmentation.overview(self.class_names)
        return Regions(torch.from_numpy(labels), names)

    def parts_of(self, index: int) -> tuple[tuple[str, ...], Tensor]:
        """Return the regions that attention for an object is measured on: names, and masks [r, H, W] bool."""
        if self.segmentation is not None:
            return self.segmentation.regions(self.annotation_indices[index])
        x0, y0, x1, y1 = self.boxes_xyxy[index].tolist()
        return segmentation_of_box((x0, y0, x1 - x0, y1 - y0), *self.image.shape[-2:])


def open_probe_images(
    config: RunConfig, classes: ClassTable, training: DetectionDataset, val: DetectionDataset | None
) -> list[AnnotatedImage]:
    """Read the probe images of a run; an empty list where recording is off.

    Args:
        config: settings of the run; see `train.recording`.
        classes: classes of the model.
        training: training images; a probe image among them gives a warning.
        val: validation images, used where `train.recording.images` names no source.

    Raises:
        UserError: no images, too many without a count, or images that cannot be read.
    """
    settings = config.train.recording
    if settings.images is not None:
        images = _from_source(settings.images, settings.split, settings.count, classes)
    elif settings.count:
        if val is None:
            raise UserError(
                "train.recording.count: probe images are taken from data.val_split, and there is none;"
                " set train.recording.images"
            )
        source, split = config.data.val_source or config.data.source, config.data.val_split or ""
        with_objects = [image.id for image in val.images if val.annotations[image.id]]
        if not with_objects:
            raise UserError("train.recording.count: no validation image has an object")
        # Read again, since evaluation needs no masks and `val` has none.
        masked = read_dataset(source, split, ValidationLog(split), details=True)
        images = annotated_probe_images(masked.subset(with_objects[: settings.count]), classes)
    else:
        return []
    _warn_of_training_images(images, training)
    return images


def _from_source(source: str, split: str, count: int, classes: ClassTable) -> list[AnnotatedImage]:
    """Read `count` images of a dataset or a folder, or all of them where it is 0."""
    prefix = source.partition(":")[0]
    if (prefix in SOURCE_FORMATS and not Path(source).exists()) or is_annotation_file(source):
        dataset = read_dataset(source, split, ValidationLog(split), details=True)
        _check_count(source, len(dataset), count)
        ids = [image.id for image in dataset.images]
        if count:
            ids.sort(key=lambda image_id: not dataset.annotations[image_id])  # those with an object first
        return annotated_probe_images(dataset.subset(ids[: count or None]), classes)
    try:
        files = [file for file in expand_media_sources([source]) if not file.is_video]
    except UserError as error:
        raise UserError(
            f"train.recording.images: {error}; name a dataset with its kind, such as coco:DIR"
        ) from None
    if not files:
        raise UserError(f"train.recording.images: {source}: no images")
    _check_count(source, len(files), count)
    boxes, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return [
        AnnotatedImage(file.stem, Path(str(file.content)), *read_upright(file.content), boxes, labels, ())
        for file in files[: count or None]
    ]


def _check_count(source: str, available: int, count: int) -> None:
    if not count and available > MAX_UNCOUNTED:
        raise UserError(
            f"train.recording.images: {source} has {available} images; set the number of images to record,"
            " such as train.recording.count=4"
        )


def annotated_probe_images(dataset: DetectionDataset, classes: ClassTable) -> list[AnnotatedImage]:
    """Read every image of a dataset, keeping objects of the given classes."""
    index_of = {
        theirs: classes.index_of(ours) for ours, theirs in match_classes(classes, dataset.classes, ()).items()
    }
    images: list[AnnotatedImage] = []
    names = UniqueNames()
    for info in dataset.images:
        annotations = dataset.annotations[info.id]
        known = [i for i, a in enumerate(annotations) if not a.iscrowd and a.category_id in index_of]
        boxes = torch.tensor([annotations[i].bbox_xywh for i in known], dtype=torch.float32).view(-1, 4)
        images.append(
            AnnotatedImage(
                names.unused(info.path.stem),
                info.path,
                *read_upright(info.path),
                torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
                torch.tensor([index_of[annotations[i].category_id] for i in known], dtype=torch.int64),
                tuple(known),
                segmentation_of(info, annotations),
                tuple(dataset.classes.name_of(a.category_id) for a in annotations),
            )
        )
    return images


def _warn_of_training_images(images: Sequence[AnnotatedImage], training: DetectionDataset) -> None:
    """Warn of probe images that are training images: the same file, or a copy of it."""
    paths = {image.path.resolve() for image in training.images}
    by_size: dict[int, list[Path]] = {}
    for path in paths:
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    for image in images:
        own = image.path.resolve()
        candidates = [own] if own in paths else by_size.get(own.stat().st_size, []) if own.is_file() else []
        same = [path for path in candidates if path == own or path.read_bytes() == own.read_bytes()]
        if same:
            log.warning(
                "probe image %s is a training image (%s): the model may have memorised it",
                image.path.name,
                same[0],
            )
