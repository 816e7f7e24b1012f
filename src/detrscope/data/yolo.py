"""Read YOLO text labels in their usual folder layouts.

Not read by supervision, whose reader paints every polygon as a mask of the whole image, takes one
folder of images and one of labels (no list files, no several folders), and stops at the first bad line
without its number. The two agree on valid labels, by test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.text_files import read_text
from detrscope.data.clean import clean_dataset
from detrscope.data.coco_masks import coco_mask_box
from detrscope.data.dataset import Annotation, DetectionDataset, ImageInfo
from detrscope.data.image_files import HIDDEN, FileIndex, image_name_key, is_hidden
from detrscope.data.image_header import read_size
from detrscope.data.parse_values import parse_integer, parse_number
from detrscope.data.splits import canonical_split, find_split
from detrscope.data.validation_log import ValidationLog
from detrscope.data.yolo_layout import LAYOUT as LAYOUT
from detrscope.data.yolo_layout import SPLITS, Layout, find_layout, yolo_images_of

FRACTIONS = 2  # a box with a larger number is not in fractions of its image
_NOT_LABELS = frozenset(
    {"classes.txt", "labels.txt", "predefined_classes.txt", *(f"{s}.txt" for s in SPLITS)}
)


def splits(source: Path) -> dict[str, list[Path]]:
    """Return folders and list files of each split; empty where a folder or data.yaml is not of a YOLO layout."""
    layout = find_layout(source)
    return layout.splits if layout else {}


def read_split(
    source: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder. Lines: `class cx cy w h [confidence]` or `class x1 y1 x2 y2 x3 y3 ...`, 0..1.

    Of a polygon or a turned box the upright box around it is taken. An image without a label file has no objects,
    but a split without any label file is an error. Category ids are YOLO's class numbers; image and annotation ids
    count from 1.

    Raises:
        UserError: there is no such split, a line cannot be read, or a class has no name.
    """
    layout = find_layout(source)
    if layout is None:
        raise UserError(f"{source}: not a YOLO layout; expected {LAYOUT}")
    if not layout.splits:
        raise UserError(f"{source}: none of its folders of images exists; expected {LAYOUT}")
    folder = source if source.is_dir() else source.parent
    paths = layout.splits[find_split(split, layout.splits, str(source))]
    files = dict.fromkeys(file for path in paths for file in yolo_images_of(path, layout, validation))
    images = [ImageInfo(image_id, file) for image_id, file in enumerate(files, start=1)]
    labels = _LabelFinder(layout.root, validation)
    label_files = {file: labels.find(file) for file in files}
    if canonical_split(split) != "test" or any(label_files.values()):  # a test split may have no labels
        labels.report(label_files, paths[0])
    for missing in layout.missing:
        validation.add("missing-split", source, f"names '{missing}', which does not exist")
    return clean_dataset(
        f"{folder.name} {split}",
        images,
        _annotations(images, label_files, layout, validation, details),
        ClassTable.of_names(layout.names),
        validation,
        source=source,
    )


class _LabelFinder:
    """Search for the label files of images."""

    def __init__(self, root: Path, validation: ValidationLog) -> None:
        self.root = root
        self.validation = validation
        self.files = FileIndex()

    def find(self, image: Path) -> Path | None:
        """Return the label file: with labels/ for an images/ of the path, the last one first, or beside the image.

        The folders above the dataset's own count only where nothing below it fits.
        """
        name = image.with_suffix(".txt")
        parts = name.parts
        above = len(self.root.parts) if name.is_relative_to(self.root) else 0
        positions = [i for i in reversed(range(len(parts) - 1)) if parts[i].casefold() == "images"]
        in_labels = {i: Path(*parts[:i], "labels", *parts[i + 1 :]) for i in positions}
        below = [path for i, path in in_labels.items() if i >= above]
        higher = [path for i, path in in_labels.items() if i < above]
        matches = self._existing([*below, name]) or self._existing(higher)
        if len(matches) > 1 and _differ(*matches[:2]):
            reason = f"has labels in {matches[0]} and other ones in {matches[1]}"
            self.validation.add("labels-in-two-places", image, reason)
        return matches[0] if matches else None

    def _existing(self, candidates: list[Path]) -> list[Path]:
        return [path for name in candidates if (path := self.files.find(name)) is not None]

    def report(self, labels: Mapping[Path, Path | None], source: Path) -> None:
        """Report label files that no image uses, and a split whose images have none at all."""
        used: dict[Path, Path] = {}
        for image, path in labels.items():
            if path is not None and (other := used.setdefault(path, image)) != image:
                reason = f"the labels of {other.name} and of {image.name}"
                self.validation.add("one-label-two-images", path, reason)
        if labels and not used:
            reason = f"no label file for any of its {len(labels)} images, such as {next(iter(labels)).name}"
            self.validation.add("no-labels", source, reason)
        image_folders = {path.parent: image.parent for path, image in used.items()}  # by folder of labels
        for folder, images in sorted(image_folders.items()):
            stems = self.files.stems(images)  # of this split or, in a shared folder, of another one
            for path in sorted(folder.glob("*.txt")):
                if is_hidden(path):
                    if folder != images:  # else reported by `yolo_images_of`
                        self.validation.add("left-out-file", path, HIDDEN)
                elif (
                    path not in used
                    and path.name not in _NOT_LABELS
                    and image_name_key(path.stem) not in stems
                ):
                    self.validation.add("unused-file", path, "a label file without an image")


def _differ(first: Path, second: Path) -> bool:
    try:
        return read_text(first).split() != read_text(second).split()
    except UserError:
        return True


def _annotations(
    images: list[ImageInfo],
    labels_of: dict[Path, Path | None],
    layout: Layout,
    validation: ValidationLog,
    details: bool,
) -> Iterator[Annotation]:
    count = in_pixels = 0
    for image in images:
        labels = labels_of[image.path]
        if labels is None:
            continue
        try:
            size = read_size(image.path)
        except UserError:
            continue  # the image cannot be read, which `clean_dataset` reports
        try:
            lines = read_text(labels).splitlines()
        except UserError as error:
            validation.add("bad-label", labels, str(error).removeprefix(f"{labels}: "))
            continue
        for row, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            count += 1
            parsed = _parse(line, layout.keypoints)
            if parsed is None:
                reason = f"line {row} is {line.strip()[:60]!r}, expected `class cx cy w h` or a polygon"
                validation.add("bad-label", labels, reason, count)
                continue
            category, box, polygon = parsed
            in_pixels += max(box) > FRACTIONS
            x, y, w, h = box[0] * size.width, box[1] * size.height, box[2] * size.width, box[3] * size.height
            points = [v * (size.height if i % 2 else size.width) for i, v in enumerate(polygon)]
            area = _polygon_area(points) if points else w * h
            mask = [points] if points and details else None
            yield Annotation(count, image.id, category, (x, y, w, h), area, segmentation=mask)
    if count and in_pixels >= 0.95 * count:
        reason = f"{in_pixels} of {count} lines have numbers above {FRACTIONS}: pixels in place of fractions?"
        validation.add("labels-like-pixels", layout.root, reason)


def _parse(line: str, keypoints: int) -> tuple[int, tuple[float, ...], list[float]] | None:
    """Return class, box x, y, w, h and polygon, 0..1; None where the line has another form."""
    words = line.split()
    first, values = parse_integer(words[0]), [v for v in map(parse_number, words[1:]) if v is not None]
    if first is None or len(values) < len(words) - 1:
        return None
    if len(values) in (4, 5) or (keypoints and len(values) == 4 + keypoints):
        cx, cy, w, h = values[:4]
        return first, (cx - w / 2, cy - h / 2, w, h), []
    polygon = values[: len(values) // 2 * 2]  # an odd number at the end is a confidence
    box = coco_mask_box([polygon]) if len(polygon) >= 6 else None
    return None if box is None else (first, tuple(box), polygon)


def _polygon_area(points: list[float]) -> float:
    xs, ys = points[::2], points[1::2]
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x * y2 - x2 * y for x, y, (x2, y2) in zip(xs, ys, following, strict=True))) / 2
