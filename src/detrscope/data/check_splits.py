"""Problems that show only when a dataset is seen as a whole: its boxes together, and its splits beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.data.similar_images import BITS, similar_pairs
from detrscope.data.splits import ANY, canonical_split
from detrscope.data.validation_log import Problem, ValidationLog

TINY = 16.0  # square pixels
GIANT = 0.95  # of the image's area
FEW = 10  # boxes; of fewer it says nothing that all have one area


def check_boxes(dataset: DetectionDataset, validation: ValidationLog) -> None:
    """Report boxes that are tiny or fill their image, and areas that cannot be those of the boxes."""
    names = dict(zip(dataset.classes.ids, dataset.classes.names, strict=True))
    objects: list[Annotation] = []
    for image in dataset.images:
        rows = [a for a in dataset.annotations[image.id] if not a.iscrowd]
        objects += rows
        for a in rows:
            area = a.bbox_xywh[2] * a.bbox_xywh[3]
            size = f"{a.bbox_xywh[2]:.3g} x {a.bbox_xywh[3]:.3g} pixels"
            if area < TINY:
                validation.add("tiny-box", image.path, size, a.id, names[a.category_id])
            elif area > GIANT * image.width * image.height > 0:
                reason = f"{size} of {image.width} x {image.height}"
                validation.add("giant-box", image.path, reason, a.id, names[a.category_id])
    areas = {a.area if a.declared_area is None else a.declared_area for a in objects}
    sizes = {round(a.bbox_xywh[2] * a.bbox_xywh[3]) for a in objects}
    if len(objects) >= FEW and len(areas) == 1 and len(sizes) > 1:
        reason = f"all {len(objects)} objects have the area {areas.pop():g}, whatever their box"
        validation.add("constant-area", dataset.name, reason)


def check_classes(splits: Mapping[str, DetectionDataset]) -> list[Problem]:
    """Return the problems of splits that give an id another name than the training split, or the first."""
    problems: list[Problem] = []
    first_split, first = "", None
    for split, dataset in sorted(splits.items(), key=lambda item: not in_training(item[0])):
        names = dict(zip(dataset.classes.ids, dataset.classes.names, strict=True))
        if first is None:
            first_split, first = split, names
            continue
        differing = {i: name for i, name in names.items() if i in first and first[i] != name}
        if differing:
            shown = ", ".join(f"{i}: {name}, not {first[i]}" for i, name in list(differing.items())[:3])
            kind = "classes-permuted" if set(names.values()) == set(first.values()) else "classes-differ"
            problems.append(
                Problem(kind, split, dataset.name, f"ids have other names than in {first_split} ({shown})")
            )
    return problems


def similar_images(images: Sequence[tuple[str, ImageInfo, int | None, bytes]]) -> list[Problem]:
    """Return the problems of images that look alike without being equal.

    Args:
        images: split, image, fingerprint, and digest of the pixels.
    """
    ordered = sorted(images, key=lambda row: in_training(row[0]))  # what is reported is the training image
    problems, reported = [], set()
    for i, j, bits in similar_pairs([row[2] for row in ordered]):
        (split, first, _, digest), (other, second, _, same) = ordered[i], ordered[j]
        if digest == same or second.path in reported:
            continue
        reported.add(second.path)
        kind = "similar-image" if split == other else "similar-image-in-two-splits"
        reason = f"looks like {first.path.name} of {split} ({bits} of {BITS} bits differ)"
        problems.append(Problem(kind, other, str(second.path), reason))
    return problems


def in_training(split: str) -> bool:
    """Return whether a split is one that models learn from."""
    return canonical_split(split) in ("train", ANY)
