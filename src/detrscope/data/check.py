"""Check a dataset before training: all problems, and statistics of its contents."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.data.check_splits import check_boxes, check_classes, in_training, similar_images
from detrscope.data.dataset import Box, DetectionDataset, ImageInfo
from detrscope.data.image_files import is_folder, is_hidden, is_image_file
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import read_dataset, splits_of
from detrscope.data.parallel_decode import decode_all
from detrscope.data.similar_images import fingerprint
from detrscope.data.splits import ANY
from detrscope.data.validation_log import Problem, Severity, ValidationLog

SMALL, MEDIUM = 32**2, 96**2  # pixels of area; COCO's limits
# Kinds that concern the folder: each of its splits reports them again.
FOLDER_KINDS = frozenset({"unused-file", "left-out-file", "missing-split"})


@dataclass(frozen=True)
class ClassCount:
    """Boxes and images of one class."""

    id: int
    name: str
    boxes: int
    images: int


@dataclass(frozen=True)
class Statistics:
    """Contents of a split. Crowds are counted apart. Sizes: small < 32 x 32 <= medium < 96 x 96 <= large."""

    split: str
    images: int
    images_without_boxes: int
    boxes: int
    crowds: int
    small: int
    medium: int
    large: int
    boxes_per_image: dict[str, float]  # mean, median, most
    image_sizes: dict[str, list[int]]  # smallest, median, largest by area: [width, height]
    classes: tuple[ClassCount, ...]
    left_out: str  # unused annotations and files by kind; empty where there are none


@dataclass(frozen=True)
class Report:
    """Statistics and problems of a dataset."""

    source: str
    statistics: tuple[Statistics, ...]
    problems: tuple[Problem, ...]
    boxes: Mapping[tuple[str, int | None], Box] = field(
        default_factory=dict
    )  # declared, by split and annotation

    def count(self, severity: Severity) -> int:
        """Return the number of problems of a severity."""
        return sum(p.severity == severity for p in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict of source, errors, warnings, statistics, problems."""
        return {
            "source": self.source,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "statistics": [asdict(s) for s in self.statistics],
            "problems": [p.to_json() for p in self.problems],
        }


def check(
    source: str | Path,
    splits: Sequence[str] = (),
    *,
    annotations: str | Path | None = None,
    queries: int | None = None,
    pixels: bool = True,
) -> Report:
    """Report every problem of `validation_log.KINDS` in all splits, and count what they hold.

    Args:
        source: Dataset, as in `open_dataset`.
        splits: Splits to check; all by default.
        annotations: COCO JSON, as in `open_dataset`.
        queries: Queries of the model to be trained; images with more objects are reported.
        pixels: Whether to decode every image, which finds truncated ones and duplicates.

    Raises:
        UserError: nothing can be checked: there is no such source or split, or the annotations are of another format.
    """
    problems: list[Problem] = []
    statistics = []
    used: set[Path] = set()
    reported: set[tuple[str, str, str]] = set()
    same_pixels: dict[bytes, list[tuple[str, ImageInfo]]] = defaultdict(list)
    seen: list[tuple[str, ImageInfo, int | None, bytes]] = []
    datasets: dict[str, DetectionDataset] = {}
    for split in splits or ((ANY,) if annotations else splits_of(source)):
        validation = ValidationLog(split, strict=False)
        dataset = read_dataset(source, split, validation, annotations=annotations)
        if pixels:
            for digest, mark, image in _decode(dataset, validation):
                same_pixels[digest].append((split, image))
                seen.append((split, image, mark, digest))
        _check_objects(dataset, validation, queries)
        check_boxes(dataset, validation)
        datasets[split] = dataset
        used |= {image.path for image in dataset.images}
        statistics.append(_count(dataset, split, validation.left_out()))
        problems += [p for p in validation.problems if (p.kind, p.file, p.reason) not in reported]
        reported |= {(p.kind, p.file, p.reason) for p in validation.problems if p.kind in FOLDER_KINDS}
    if not splits:  # else other splits may use them
        problems += _unused_images(used)
    for images in same_pixels.values():
        problems += _duplicates(sorted(images, key=lambda row: in_training(row[0])))
    problems += similar_images(seen)
    problems += check_classes(datasets)
    return Report(str(source), tuple(statistics), tuple(problems), _boxes(datasets, problems))


def _boxes(datasets: Mapping[str, DetectionDataset], problems: Sequence[Problem]) -> dict[Any, Box]:
    """Return the declared boxes of the annotations that problems name."""
    named = {(p.split, p.annotation) for p in problems if p.annotation is not None}
    return {
        (split, a.id): a.declared_xywh or a.bbox_xywh
        for split, dataset in datasets.items()
        for rows in (*dataset.annotations.values(), *dataset.unusable.values())
        for a in rows
        if (split, a.id) in named
    }


def _decode(
    dataset: DetectionDataset, validation: ValidationLog
) -> list[tuple[bytes, int | None, ImageInfo]]:
    """Return a digest of the pixels of every image and its fingerprint; report those that cannot be decoded."""
    known = {p.file for p in validation.problems if p.kind in ("missing-image", "unreadable-image")}
    images = [image for image in dataset.images if str(image.path) not in known]

    def digest(index: int) -> tuple[bytes, int | None] | UserError:
        try:
            pixels = read_image(images[index].path)
        except UserError as error:
            return error
        shape, array = str(tuple(pixels.shape)).encode(), pixels.permute(1, 2, 0).contiguous().numpy()
        return hashlib.blake2b(array.tobytes(), digest_size=16, key=shape).digest(), fingerprint(array)

    digests = []
    results = decode_all(digest, (i.width * i.height for i in images), f"reading {dataset.name}")
    for image, result in zip(images, results, strict=True):
        if isinstance(result, UserError):
            validation.add("unreadable-image", image.path, str(result).removeprefix(f"{image.path}: "))
        else:
            digests.append((*result, image))
    return digests


def _duplicates(images: Sequence[tuple[str, ImageInfo]]) -> list[Problem]:
    """Return the problems of images with equal pixels, each compared with the first."""
    (split, first), *others = images
    problems = []
    for other, image in others:
        if other == split and image.path == first.path:
            continue  # two entries of one file, which is a problem of its own
        kind = "duplicate-image" if other == split else "image-in-two-splits"
        reason = f"the same pixels as {first.path.name} of {split}"
        problems.append(Problem(kind, other, str(image.path), reason, image=image.id))
    return problems


def _unused_images(used: set[Path]) -> list[Problem]:
    """Return one problem for each folder of the dataset with images that belong to none of its splits."""
    problems = []
    names: dict[str, set[str]] = defaultdict(set)  # of the used images by folder
    for path in used:
        parent, name = os.path.split(path)
        names[parent or "."].add(name)
    for folder in filter(is_folder, sorted(map(Path, names))):
        unused = sorted(
            name
            for name in {*os.listdir(folder)} - names[str(folder)]
            if is_image_file(Path(name)) and not is_hidden(Path(name))
        )
        if unused:
            reason = f"{len(unused)} images are in no split, such as {unused[0]}"
            problems.append(Problem("unused-images", ANY, str(folder), reason))
    return problems


def _check_objects(dataset: DetectionDataset, validation: ValidationLog, queries: int | None) -> None:
    names = dict(zip(dataset.classes.ids, dataset.classes.names, strict=True))
    for name, times in Counter(dataset.classes.names).items():
        if times > 1:
            reason = f"{times} categories have this name"
            validation.add("duplicate-class-name", dataset.name, reason, category=name)
    for image in dataset.images:
        rows = [a for a in dataset.annotations[image.id] if not a.iscrowd]
        if not rows:
            validation.add("image-without-boxes", image.path, "no boxes")
        if queries is not None and len(rows) > queries:
            reason = f"{len(rows)} objects, but {queries} queries"
            validation.add("more-objects-than-queries", image.path, reason)
        first: dict[Any, int] = {}
        for a in rows:
            twin = first.setdefault((a.category_id, a.bbox_xywh), a.id)
            if twin != a.id:
                reason = f"the same box and category as annotation {twin}"
                validation.add("duplicate-box", image.path, reason, a.id, names[a.category_id])
    used = {a.category_id for rows in dataset.annotations.values() for a in rows if not a.iscrowd}
    kind = "class-without-boxes" if in_training(validation.split) else "class-not-evaluated"
    for category, name in names.items():
        if category not in used:
            validation.add(kind, dataset.name, f"category id {category} has no boxes", category=name)


def _count(dataset: DetectionDataset, split: str, left_out: str) -> Statistics:
    objects = {i: [a for a in rows if not a.iscrowd] for i, rows in dataset.annotations.items()}
    boxes = [a for rows in objects.values() for a in rows]
    per_class = Counter(a.category_id for a in boxes)
    images_of_class = Counter(c for rows in objects.values() for c in {a.category_id for a in rows})
    small = sum(a.area < SMALL for a in boxes)
    large = sum(a.area >= MEDIUM for a in boxes)
    per_image = [len(rows) for rows in objects.values()] or [0]
    sizes = sorted(([i.width, i.height] for i in dataset.images if i.width), key=math.prod) or [[0, 0]]
    return Statistics(
        split=split,
        images=len(dataset),
        images_without_boxes=sum(not rows for rows in objects.values()),
        boxes=len(boxes),
        crowds=sum(map(len, dataset.annotations.values())) - len(boxes),
        small=small,
        medium=len(boxes) - small - large,
        large=large,
        boxes_per_image={
            "mean": round(statistics.fmean(per_image), 2),
            "median": statistics.median(per_image),
            "most": max(per_image),
        },
        image_sizes={"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]},
        classes=tuple(
            ClassCount(i, n, per_class[i], images_of_class[i])
            for i, n in zip(dataset.classes.ids, dataset.classes.names, strict=True)
        ),
        left_out=left_out,
    )
