"""Everything that is wrong with a dataset, and what is in it, before an hour of training is wasted on it."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.data.dataset import DetectionDataset, ImageInfo
from detrscope.data.decodable import on_all_cores
from detrscope.data.image_files import is_folder, is_hidden, is_picture
from detrscope.data.image_reader import read_image
from detrscope.data.open_dataset import read, splits_of
from detrscope.data.splits import ANY, canonical_split
from detrscope.data.validation_log import Problem, Severity, ValidationLog

SMALL, MEDIUM = 32**2, 96**2  # pixels of area; COCO's limits
OF_THE_FOLDER = frozenset(
    {"unused-file", "left-out-file", "missing-split"}
)  # found again in each of its splits


@dataclass(frozen=True)
class ClassCount:
    """One row of the histogram."""

    id: int
    name: str
    boxes: int
    images: int


@dataclass(frozen=True)
class Statistics:
    """What is in a split. Crowds are counted apart. Sizes: small < 32 x 32 <= medium < 96 x 96 <= large."""

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
    left_out: str  # annotations and files that are not used, by kind; empty where there are none


@dataclass(frozen=True)
class Report:
    """The outcome of a check."""

    source: str
    statistics: tuple[Statistics, ...]
    problems: tuple[Problem, ...]

    def count(self, severity: Severity) -> int:
        """How many problems of a severity."""
        return sum(p.severity == severity for p in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Plain dict: source, errors, warnings, statistics, problems."""
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
    """Looks for everything in `problems.KINDS`, in all splits.

    Args:
        source: as in `open_dataset`.
        splits: which splits; all by default.
        annotations: as in `open_dataset`.
        queries: of the model that is to be trained; images with more objects are reported.
        pixels: decode every image, which finds truncated ones and duplicates.

    Raises:
        UserError: there is nothing to check: no such source or split, or annotations that are not of the
            format.
    """
    found: list[Problem] = []
    counted = []
    used: set[Path] = set()
    of_the_folder: set[tuple[str, str, str]] = set()
    pictures: dict[bytes, list[tuple[str, ImageInfo]]] = defaultdict(list)
    for split in splits or (("*",) if annotations else splits_of(source)):
        problems = ValidationLog(split, strict=False)
        dataset = read(source, split, problems, annotations=annotations)
        if pixels:
            for digest, image in _decode(dataset, problems):
                pictures[digest].append((split, image))
        _look_at_objects(dataset, problems, queries)
        used |= {image.path for image in dataset.images}
        counted.append(_count(dataset, split, problems.left_out()))
        found += [p for p in problems.found if (p.kind, p.file, p.reason) not in of_the_folder]
        of_the_folder |= {(p.kind, p.file, p.reason) for p in problems.found if p.kind in OF_THE_FOLDER}
    if not splits:  # else other splits may use them
        found += _unused_pictures(used)
    for same in pictures.values():
        found += _duplicates(same)
    return Report(str(source), tuple(counted), tuple(found))


def _decode(dataset: DetectionDataset, problems: ValidationLog) -> list[tuple[bytes, ImageInfo]]:
    """A digest of the pixels of every image; those that cannot be decoded are reported."""

    def digest(image: ImageInfo) -> bytes | UserError:
        try:
            pixels = read_image(image.path)
        except UserError as error:
            return error
        shape = str(tuple(pixels.shape)).encode()
        return hashlib.blake2b(pixels.permute(1, 2, 0).numpy().tobytes(), digest_size=16, key=shape).digest()

    known = {p.file for p in problems.found if p.kind in ("missing-image", "unreadable-image")}
    images = [image for image in dataset.images if str(image.path) not in known]
    good = []
    for image, result in zip(images, on_all_cores(digest, images, f"reading {dataset.name}"), strict=True):
        if isinstance(result, UserError):
            reason = str(result).removeprefix(f"{image.path}: ")
            problems.add("unreadable-image", image.path, reason)
        else:
            good.append((result, image))
    return good


def _duplicates(same: Sequence[tuple[str, ImageInfo]]) -> list[Problem]:
    """Problems of images with equal pixels, each compared with the first."""
    (split, first), *others = same
    found = []
    for other_split, image in others:
        kind = "duplicate-image" if other_split == split else "image-in-two-splits"
        reason = f"the same pixels as {first.path.name} of {split}"
        found.append(Problem(kind, other_split, str(image.path), reason))
    return found


def _unused_pictures(used: set[Path]) -> list[Problem]:
    """Pictures beside those of the dataset that belong to none of its splits: one problem for each folder."""
    problems = []
    for folder in sorted({path.parent for path in used}):
        if not is_folder(folder):
            continue
        unused = sorted(p for p in folder.iterdir() if is_picture(p) and not is_hidden(p) and p not in used)
        if unused:
            reason = f"{len(unused)} pictures are in no split, such as {unused[0].name}"
            problems.append(Problem("unused-pictures", "*", str(folder), reason))
    return problems


def _look_at_objects(dataset: DetectionDataset, problems: ValidationLog, queries: int | None) -> None:
    names = dict(zip(dataset.classes.ids, dataset.classes.names, strict=True))
    for name, times in Counter(dataset.classes.names).items():
        if times > 1:
            problems.add(
                "duplicate-class-name", dataset.name, f"{times} categories have this name", category=name
            )
    for image in dataset.images:
        rows = [a for a in dataset.annotations[image.id] if not a.iscrowd]
        if not rows:
            problems.add("image-without-boxes", image.path, "no boxes")
        if queries is not None and len(rows) > queries:
            reason = f"{len(rows)} objects, but {queries} queries"
            problems.add("more-objects-than-queries", image.path, reason)
        seen: dict[Any, int] = {}
        for a in rows:
            twin = seen.setdefault((a.category_id, a.bbox_xywh), a.id)
            if twin != a.id:
                reason = f"the same box and category as annotation {twin}"
                problems.add("duplicate-box", image.path, reason, a.id, names[a.category_id])
    used = {a.category_id for rows in dataset.annotations.values() for a in rows if not a.iscrowd}
    kind = (
        "class-without-boxes" if canonical_split(problems.split) in ("train", ANY) else "class-not-evaluated"
    )
    for category, name in names.items():
        if category not in used:
            problems.add(kind, dataset.name, f"category id {category} has no boxes", category=name)


def _count(dataset: DetectionDataset, split: str, left_out: str) -> Statistics:
    kept = {i: [a for a in rows if not a.iscrowd] for i, rows in dataset.annotations.items()}
    boxes = [a for rows in kept.values() for a in rows]
    per_class = Counter(a.category_id for a in boxes)
    images_of_class = Counter(c for rows in kept.values() for c in {a.category_id for a in rows})
    small = sum(a.area < SMALL for a in boxes)
    large = sum(a.area >= MEDIUM for a in boxes)
    per_image = [len(rows) for rows in kept.values()] or [0]
    by_area = sorted(([i.width, i.height] for i in dataset.images if i.width), key=lambda s: s[0] * s[1]) or [
        [0, 0]
    ]
    return Statistics(
        split=split,
        images=len(dataset),
        images_without_boxes=sum(not rows for rows in kept.values()),
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
        image_sizes={"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]},
        classes=tuple(
            ClassCount(i, n, per_class[i], images_of_class[i])
            for i, n in zip(dataset.classes.ids, dataset.classes.names, strict=True)
        ),
        left_out=left_out,
    )
