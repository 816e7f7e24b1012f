"""A repaired copy of a dataset: what `data check` finds and a rule can mend. The original is never touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrscope.core.errors import UserError
from detrscope.data.check import Report, check
from detrscope.data.check_splits import in_training
from detrscope.data.dataset import Annotation, DetectionDataset
from detrscope.data.open_dataset import read_dataset
from detrscope.data.splits import ANY
from detrscope.data.validation_log import ValidationLog
from detrscope.data.write_coco import Files, check_new_folder, write_coco

REPEATED = {  # kinds of problems whose image is left out, and what that is called
    "duplicate-image": "repeated images left out",
    "image-in-two-splits": "training images that are in another split too left out",
}
UNREADABLE = {
    "missing-image": "images without a file left out",
    "unreadable-image": "unreadable images left out",
}
WHILE_READING = {  # mended by reading; counted in the report
    "bad-box": "boxes that are not finite left out",
    "unknown-image": "annotations of undeclared images left out",
    "undeclared-category": "annotations of undeclared categories left out",
    "unused-shape": "shapes without an area or a label left out",
    "unlabelled-task": "images that nobody labelled left out",
    "unused-annotation": "other versions of an annotation left out",
    "rotated-box": "turned boxes replaced by the upright ones around them",
    "corners-reversed": "corners put in order",
    "duplicate-annotation-id": "annotation ids made unique",
}
MENDED = {*REPEATED, *UNREADABLE, *WHILE_READING, "duplicate-box", "box-clipped", "empty-box", "box-outside"}


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
    out = Path(out)
    check_new_folder(out)
    repeated, unreadable, left = {}, {}, Counter[str]()
    done: Counter[str] = Counter()
    for p in report.problems:
        if p.kind in REPEATED and (p.kind != "image-in-two-splits" or in_training(p.split)):
            repeated[p.split, p.image] = p.kind
        elif p.kind in UNREADABLE:
            unreadable[p.split, p.file] = p.kind
        elif p.kind in WHILE_READING:
            done[WHILE_READING[p.kind]] += 1
        elif (
            p.severity != "info"
            and p.kind not in MENDED - {"image-in-two-splits"}
            and p.kind != "constant-area"
        ):
            left[p.kind] += 1
    constant = {p.split for p in report.problems if p.kind == "constant-area"}
    written: dict[str, DetectionDataset] = {}
    for statistics in report.statistics:
        split = statistics.split
        dataset = read_dataset(source, split, ValidationLog(split, strict=False), details=True)
        images = []
        for image in dataset.images:
            what = REPEATED.get(repeated.get((split, image.id), ""))
            what = what or UNREADABLE.get(unreadable.get((split, str(image.path)), ""))
            if what is None:
                images.append(image)
            else:
                done[what] += 1
        if dataset.images and not images:
            raise UserError(
                f"{source}: no image of {split} would be left: all of them are in another split or cannot be read;"
                " nothing was written"
            )
        annotations: dict[int, tuple[Annotation, ...]] = {}
        for image in images:
            rows = dataset.annotations[image.id]
            kept = _without_repeats(rows)
            done["repeated boxes left out"] += len(rows) - len(kept)
            done["boxes without anything to learn left out"] += len(dataset.unusable.get(image.id, ()))
            done["boxes cut to their image"] += sum(a.declared_xywh is not None for a in kept)
            if split in constant:
                kept = [replace(a, area=a.bbox_xywh[2] * a.bbox_xywh[3]) for a in kept]
                done["areas computed from the boxes"] += len(kept)
            annotations[image.id] = tuple(replace(a, declared_xywh=None, declared_area=None) for a in kept)
        written["train" if split == ANY else split] = replace(
            dataset, images=tuple(images), annotations=annotations, unusable={}
        )
    write_coco(written, out, files)
    done += Counter()  # without zeros
    return Repair(report, written, dict(done), dict(left))


def _without_repeats(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Return the annotations but for those with the class and box of an earlier one; crowds are kept."""
    kept, seen = [], set()
    for a in annotations:
        key = (a.category_id, a.bbox_xywh)
        if a.iscrowd or key not in seen:
            kept.append(a)
        if not a.iscrowd:
            seen.add(key)
    return kept
