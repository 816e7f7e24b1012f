"""Probe images: the pictures that are looked at while a model learns, with whatever truth is known of them."""

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
from detrscope.data.open_dataset import SOURCES, read
from detrscope.data.segmentation import SegmentationMap, box_regions, segmentation_of
from detrscope.data.validation_log import ValidationLog
from detrscope.evaluation.class_matching import match_classes
from detrscope.inference.media_sources import UniqueNames, expand
from detrscope.training.config import RunConfig

MOST = 32  # pictures that are watched without being asked for by number


@dataclass(frozen=True)
class AnnotatedImage:
    """A picture to be watched. Its objects are those whose class the model knows, crowds left out."""

    name: str  # unique among those that are watched
    path: Path
    image: Tensor  # [3, H, W] uint8, upright
    orientation: int  # EXIF's
    boxes_xyxy: Tensor  # [M, 4] pixels
    labels: Tensor  # [M] class index of the model
    places: tuple[int, ...]  # M, of the objects among the annotations
    ground: SegmentationMap | None = None
    class_names: tuple[str, ...] = ()  # of all annotations, in their order

    @property
    def targets(self) -> Target:
        """Classes and boxes, 0..1 of the picture."""
        height, width = self.image.shape[-2:]
        return Target(self.labels, scale_boxes(xyxy_to_cxcywh(self.boxes_xyxy), 1 / width, 1 / height))

    @property
    def overview(self) -> Regions | None:
        """What lies under each pixel, where it is known."""
        if self.ground is None:
            return None
        labels, names = self.ground.overview(self.class_names)
        return Regions(torch.from_numpy(labels), names)

    def regions(self, index: int) -> tuple[tuple[str, ...], Tensor]:
        """What attention for an object may lie on: names, and masks [r, H, W] bool."""
        if self.ground is not None:
            return self.ground.regions(self.places[index])
        x0, y0, x1, y1 = self.boxes_xyxy[index].tolist()
        return box_regions((x0, y0, x1 - x0, y1 - y0), *self.image.shape[-2:])


def open_probe_images(
    config: RunConfig, classes: ClassTable, training: DetectionDataset, val: DetectionDataset | None
) -> list[AnnotatedImage]:
    """The probe images that the config asks for; none where it asks for none.

    Args:
        config: see `train.recording`.
        classes: of the model.
        training: what is learned from; a probe image that is in it is warned of.
        val: the split to take pictures from where none are named.

    Raises:
        UserError: there are none, too many to be meant, or they cannot be read.
    """
    watch = config.train.recording
    if watch.images is not None:
        probes = _named(watch.images, watch.split, watch.count, classes)
    elif watch.count:
        if val is None:
            raise UserError(
                "train.recording.count: the pictures are those of data.val_split, and there is none;"
                " name others with --probe-images"
            )
        source, split = config.data.val_source or config.data.source, config.data.val_split or ""
        with_objects = [image.id for image in val.images if val.annotations[image.id]]
        if not with_objects:
            raise UserError("train.recording.count: no validation picture has an object to look at")
        # Read again, since evaluation needs no masks and `val` has none.
        masked = read(source, split, ValidationLog(split), details=True)
        probes = probe_images(masked.subset(with_objects[: watch.count]), classes)
    else:
        return []
    _warn_of_training_images(probes, training)
    return probes


def _named(source: str, split: str, pictures: int, classes: ClassTable) -> list[AnnotatedImage]:
    """From a folder of pictures or a dataset."""
    prefix = source.partition(":")[0]
    is_dataset = (prefix in SOURCES and not Path(source).exists()) or source.lower().endswith(".json")
    if is_dataset:
        dataset = read(source, split, ValidationLog(split), details=True)
        _refuse_crowd(source, len(dataset), pictures)
        ids = [image.id for image in dataset.images]
        if pictures:
            ids.sort(key=lambda image_id: not dataset.annotations[image_id])  # those with an object first
        return probe_images(dataset.subset(ids[: pictures or None]), classes)
    try:
        found = [one for one in expand([source]) if not one.is_video]
    except UserError as error:
        raise UserError(
            f"train.recording.images: {error}; of a dataset say its kind, such as coco:DIR"
        ) from None
    if not found:
        raise UserError(f"train.recording.images: {source}: no pictures")
    _refuse_crowd(source, len(found), pictures)
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    return [
        AnnotatedImage(one.stem, Path(str(one.content)), *read_upright(one.content), *none, ())
        for one in found[: pictures or None]
    ]


def _refuse_crowd(source: str, count: int, pictures: int) -> None:
    if not pictures and count > MOST:
        raise UserError(
            f"train.recording.images: {source} has {count} pictures; say how many of them to watch,"
            " such as --train.recording.count=4"
        )


def probe_images(dataset: DetectionDataset, classes: ClassTable) -> list[AnnotatedImage]:
    """Every picture of a dataset with the truth that a model with these classes can know."""
    index_of = {
        theirs: classes.index_of(ours) for ours, theirs in match_classes(classes, dataset.classes, ()).items()
    }
    probes: list[AnnotatedImage] = []
    stems = UniqueNames()
    for image in dataset.images:
        rows = dataset.annotations[image.id]
        known = [i for i, a in enumerate(rows) if not a.iscrowd and a.category_id in index_of]
        boxes = torch.tensor([rows[i].bbox_xywh for i in known], dtype=torch.float32).view(-1, 4)
        probes.append(
            AnnotatedImage(
                stems.unused(image.path.stem),
                image.path,
                *read_upright(image.path),
                torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
                torch.tensor([index_of[rows[i].category_id] for i in known], dtype=torch.int64),
                tuple(known),
                segmentation_of(image, rows),
                tuple(dataset.classes.name_of(a.category_id) for a in rows),
            )
        )
    return probes


def _warn_of_training_images(probes: Sequence[AnnotatedImage], training: DetectionDataset) -> None:
    """Say which probe images are trained on: the same file, or a copy of it."""
    paths = {image.path.resolve() for image in training.images}
    sizes: dict[int, list[Path]] = {}
    for path in paths:
        if path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(path)
    for probe in probes:
        own = probe.path.resolve()
        twins = [own] if own in paths else sizes.get(own.stat().st_size, []) if own.is_file() else []
        same = [twin for twin in twins if twin == own or twin.read_bytes() == own.read_bytes()]
        if same:
            log.warning(
                "probe image %s is a training image (%s): what the model does there it may have learned by heart",
                probe.path.name,
                same[0],
            )
