"""A repaired copy of a dataset: what `data check` finds and a rule can mend. The original is never touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrscope.core.errors import UserError
from detrscope.data.check import Report, check
from detrscope.data.dataset import Annotation, DetectionDataset
from detrscope.data.open_dataset import read_dataset
from detrscope.data.splits import ANY
from detrscope.data.validation_log import ValidationLog
from detrscope.data.write_coco import Files, write_coco

DROPPED_IMAGES = {  # kinds of problems whose image is left out, and what that is called
    "missing-image": "images without a file left out",
    "unreadable-image": "unreadable images left out",
    "duplicate-image": "repeated images left out",
    "image-in-two-splits": "training images that are in another split too left out",
}
DROPPED_BOXES = {"duplicate-box": "repeated boxes left out"}


@dataclass(frozen=True)
class Repair:
    """What was mended.

    Attributes:
        report: the check of the original.
        splits: the repaired datasets as they were written.
        done: repairs in words, with their numbers.
        left: kinds of errors and warnings that no rule can mend, with their numbers.
    """

    report: Report
    splits: dict[str, DetectionDataset]
    done: dict[str, int]
    left: dict[str, int]


def repair(
    source: str | Path,
    out: str | Path,
    splits: Sequence[str] = (),
    *,
    files: Files = "copy",
    report: Report | None = None,
) -> Repair:
    """Check a dataset and write a repaired copy in COCO's layout.

    Boxes are cut to their images; boxes that are empty, not finite, outside of their image, repeated, or of an
    undeclared image or category are left out, and so are images that are missing, cannot be decoded, or repeat another;
    of an image that is in a training and another split, the training one. Areas are those of the boxes where they were
    missing or all the same. Images are copied as they are.

    Args:
        source: dataset, as in `open_dataset`.
        out: folder to make.
        splits: splits to repair; all by default.
        files: whether to copy the images or link to them.
        report: the check of these splits, where it is known.

    Raises:
        UserError: nothing can be read, or `out` is in use.
    """
    report = report or check(source, splits)
    bad_images = {(p.split, p.file): p.kind for p in report.problems if p.kind in DROPPED_IMAGES}
    repeated = {(p.split, p.file, p.annotation) for p in report.problems if p.kind in DROPPED_BOXES}
    constant = {p.split for p in report.problems if p.kind == "constant-area"}
    done: Counter[str] = Counter()
    written: dict[str, DetectionDataset] = {}
    for statistics in report.statistics:
        split = statistics.split
        dataset = read_dataset(source, split, ValidationLog(split, strict=False), details=True)
        images = []
        for image in dataset.images:
            kind = bad_images.get((split, str(image.path)))
            if kind is None:
                images.append(image)
            else:
                done[DROPPED_IMAGES[kind]] += 1
        annotations: dict[int, tuple[Annotation, ...]] = {}
        for image in images:
            rows = dataset.annotations[image.id]
            kept = [a for a in rows if (split, str(image.path), a.id) not in repeated]
            done[DROPPED_BOXES["duplicate-box"]] += len(rows) - len(kept)
            done["boxes without anything to learn left out"] += len(dataset.unusable.get(image.id, ()))
            done["boxes cut to their image"] += sum(a.declared_xywh is not None for a in kept)
            if split in constant:
                kept = [replace(a, area=a.bbox_xywh[2] * a.bbox_xywh[3]) for a in kept]
                done["areas computed from the boxes"] += len(kept)
            annotations[image.id] = tuple(replace(a, declared_xywh=None, declared_area=None) for a in kept)
        written["train" if split == ANY else split] = replace(
            dataset, images=tuple(images), annotations=annotations, unusable={}
        )
    if not any(len(dataset) for dataset in written.values()):
        raise UserError(f"{source}: no image is left after repairs; nothing was written")
    write_coco(written, Path(out), files)
    mended = {*DROPPED_IMAGES, *DROPPED_BOXES, "box-clipped", "empty-box", "box-outside", "constant-area"}
    mended |= {
        "bad-box",
        "unknown-image",
        "undeclared-category",
        "corners-reversed",
        "duplicate-annotation-id",
    }
    left = Counter(p.kind for p in report.problems if p.kind not in mended and p.severity != "info")
    done += Counter()  # without zeros
    return Repair(report, written, dict(done), dict(left))
