"""Labelled images of an annotation tool as a dataset: what the readers of LabelMe, CVAT and others share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detrscope.core.classes import ClassTable
from detrscope.core.text_files import read_lines
from detrscope.data.clean import clean_dataset
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.data.shapes import Shape
from detrscope.data.validation_log import ValidationLog

CLASS_LISTS = ("classes.txt", "labels.txt")
_NO_CLASSES = frozenset({"__ignore__", "_background_"})  # first lines of LabelMe's lists


@dataclass
class LabelledImage:
    """One image of a tool and its shapes."""

    path: Path
    where: Path  # file of the annotations, for messages
    width: int = 0  # pixels as declared; 0 where they are not
    height: int = 0
    shapes: list[Shape] = field(default_factory=list)


def listed_names(root: Path) -> list[str] | None:
    """Return the class names of classes.txt or labels.txt in a folder; None where there is no such list."""
    for name in CLASS_LISTS:
        if (root / name).is_file():
            return [line for line in read_lines(root / name) if line not in _NO_CLASSES]
    return None


def numbered_classes(declared: Sequence[str], used: Iterable[str]) -> ClassTable:
    """Return classes with ids from 1: the declared names in their order, then other names alphabetically."""
    names = list(dict.fromkeys([*declared, *sorted(set(used) - {*declared})]))
    return ClassTable(tuple(range(1, len(names) + 1)), tuple(names))


def to_dataset(
    name: str,
    images: Sequence[LabelledImage],
    classes: ClassTable,
    validation: ValidationLog,
    *,
    source: Path,
    details: bool,
) -> DetectionDataset:
    """Return the dataset of labelled images; image and annotation ids count from 1 in their order.

    Args:
        name: Name of the dataset.
        images: Images with their shapes.
        classes: Classes of all splits.
        validation: Log to report to.
        source: File or folder of the annotations, for messages about no image in particular.
        details: Whether to keep polygons and masks, which detection does not use.

    Raises:
        UserError: a problem that stops, when `validation` is strict.
    """
    index = dict(zip(classes.names, classes.ids, strict=True))
    infos = [ImageInfo(n, image.path, image.width, image.height) for n, image in enumerate(images, start=1)]
    annotations: list[Annotation] = []
    for info, image in zip(infos, images, strict=True):
        for shape in image.shapes:
            own = len(annotations) + 1
            if shape.label not in index:
                reason = f"'{shape.label}' is not in the list of classes"
                validation.add("undeclared-category", image.where, reason, own, shape.label)
                continue
            if shape.turned:
                validation.add("rotated-box", image.path, "a turned rectangle", own, shape.label)
            mask = shape.segmentation if details else None
            annotations.append(
                Annotation(own, info.id, index[shape.label], shape.box_xywh, shape.area, shape.iscrowd, mask)
            )
    return clean_dataset(name, infos, annotations, classes, validation, source=source)
