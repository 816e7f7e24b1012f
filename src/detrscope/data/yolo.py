"""YOLO's text labels, in the folder layouts that they are found in.

Read here and not by supervision, whose reader paints every polygon as a mask of the whole image, takes one
folder of images and one of labels (no list files, no several folders), and stops at the first bad line
without its number. The two agree on valid labels, by test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.core.text_files import read_text
from detrscope.data.clean import RawBox, RawImage, clean_dataset
from detrscope.data.coco import polygon_box
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import Directory, is_hidden, name_key
from detrscope.data.image_reader import read_size
from detrscope.data.parse_values import integer, number
from detrscope.data.splits import canonical_split, find_split
from detrscope.data.validation_log import ValidationLog
from detrscope.data.yolo_layout import LAYOUT as LAYOUT
from detrscope.data.yolo_layout import SPLITS, Layout, find_layout, images_of

FRACTIONS = 2  # a box in fractions of its image that sticks out this far is none
_NOT_LABELS = frozenset(
    {"classes.txt", "labels.txt", "predefined_classes.txt", *(f"{s}.txt" for s in SPLITS)}
)


def splits(source: Path) -> dict[str, list[Path]]:
    """Where the images of each split are; empty where the folder, or the data.yaml, is not of a YOLO layout."""
    layout = find_layout(source)
    return layout.splits if layout else {}


def read_split(source: Path, split: str, problems: ValidationLog, details: bool = False) -> DetectionDataset:
    """One split of a folder. Lines: `class cx cy w h [confidence]` or `class x1 y1 x2 y2 x3 y3 ...`, 0..1.

    Of a polygon or a turned box the upright box around it is taken. An image without a label file has no objects,
    but a split without any label file is an error. Category ids are YOLO's class numbers; image and annotation ids
    count from 1.

    Raises:
        UserError: no such split, a line that cannot be read, or a class without a name.
    """
    layout = find_layout(source)
    if layout is None:
        raise UserError(f"{source}: not a YOLO layout; expected {LAYOUT}")
    if not layout.splits:
        raise UserError(f"{source}: none of the folders with images is there; expected {LAYOUT}")
    folder = source if source.is_dir() else source.parent
    name = find_split(split, layout.splits, str(source))
    places = layout.splits[name]
    files = list(dict.fromkeys(file for place in places for file in images_of(place, layout, problems)))
    images = [RawImage(number, file) for number, file in enumerate(files, start=1)]
    labels = _Labels(layout.root, problems)
    label_files = {image.path: labels.of(image.path) for image in images}
    if canonical_split(split) != "test" or any(
        label_files.values()
    ):  # a test split may have none: nobody learns from it
        labels.report(label_files, places[0])
    for missing in layout.missing:
        problems.add("missing-split", source, f"names '{missing}', which is not there")
    return clean_dataset(
        f"{folder.name} {split}",
        images,
        _boxes(images, label_files, layout, problems, details),
        ClassTable.of_names(layout.names),
        problems,
        source=source,
    )


class _Labels:
    """Finds the label files of images."""

    def __init__(self, root: Path, problems: ValidationLog) -> None:
        self.root = root
        self.problems = problems
        self.directory = Directory()

    def of(self, image: Path) -> Path | None:
        """The label file of an image: labels/ in place of an images/ of the path, the last one first, or beside it.

        The folders above the dataset's own count only where nothing below it fits.
        """
        name = image.with_suffix(".txt")
        parts = name.parts
        above = len(self.root.parts) if name.is_relative_to(self.root) else 0
        where = [i for i in reversed(range(len(parts) - 1)) if parts[i].casefold() == "images"]
        below = [Path(*parts[:i], "labels", *parts[i + 1 :]) for i in where if i >= above]
        tries = [*below, name]
        found = [path for one in tries if (path := self.directory.find(one)) is not None]
        if not found:
            higher = [Path(*parts[:i], "labels", *parts[i + 1 :]) for i in where if i < above]
            found = [path for one in higher if (path := self.directory.find(one)) is not None]
        if len(found) > 1 and _differ(*found[:2]):
            reason = f"has labels in {found[0]} and other ones in {found[1]}"
            self.problems.add("labels-in-two-places", image, reason)
        return found[0] if found else None

    def report(self, labels: Mapping[Path, Path | None], place: Path) -> None:
        """Report label files that no image uses, and a split whose images have none at all."""
        used: dict[Path, Path] = {}
        for image, path in labels.items():
            if path is not None and (other := used.setdefault(path, image)) != image:
                self.problems.add(
                    "one-label-two-images", path, f"the labels of {other.name} and of {image.name}"
                )
        if labels and not used:
            reason = f"no label file for any of its {len(labels)} images, such as {next(iter(labels)).name}"
            self.problems.add("no-labels", place, reason)
        beside = {
            path.parent: image.parent for path, image in used.items()
        }  # labels and their images' folder
        for folder, images in sorted(beside.items()):
            pictures = self.directory.stems(images)  # of this split or, in a shared folder, of another one
            for path in sorted(folder.glob("*.txt")):
                if is_hidden(path) and folder != images:  # in the folder of the images it was said before
                    self.problems.add("left-out-file", path, "hidden, or the system's")
                if path not in used and not (
                    is_hidden(path) or path.name in _NOT_LABELS or name_key(path.stem) in pictures
                ):
                    self.problems.add("unused-file", path, "a label file without an image")


def _differ(first: Path, second: Path) -> bool:
    try:
        return read_text(first).split() != read_text(second).split()
    except UserError:
        return True


def _boxes(
    images: list[RawImage],
    labels_of: dict[Path, Path | None],
    layout: Layout,
    problems: ValidationLog,
    details: bool,
) -> Iterator[RawBox]:
    number = in_pixels = 0
    for image in images:
        labels = labels_of[image.path]
        if labels is None:
            continue
        try:
            size = read_size(image.path)
        except UserError:
            continue  # the image cannot be read, which assemble reports
        try:
            lines = read_text(labels).splitlines()
        except UserError as error:
            problems.add("bad-label", labels, str(error).removeprefix(f"{labels}: "))
            continue
        for at, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            number += 1
            parsed = _parse(line, layout.keypoints)
            if parsed is None:
                reason = f"line {at} is {line.strip()[:60]!r}, expected `class cx cy w h` or a polygon"
                problems.add("bad-label", labels, reason, number)
                continue
            category, box, polygon = parsed
            in_pixels += max(box) > FRACTIONS
            x, y, w, h = box[0] * size.width, box[1] * size.height, box[2] * size.width, box[3] * size.height
            mask = (
                [[v * (size.height if i % 2 else size.width) for i, v in enumerate(polygon)]]
                if polygon
                else None
            )
            area = w * h if mask is None else _polygon_area(mask[0])
            yield RawBox(
                number, image.id, category, (x, y, w, h), area, segmentation=mask if details else None
            )

    if number and in_pixels >= 0.95 * number:
        reason = (
            f"{in_pixels} of {number} lines have numbers above {FRACTIONS}: pixels in place of fractions?"
        )
        problems.add("labels-like-pixels", layout.root, reason)


def _parse(line: str, keypoints: int) -> tuple[int, tuple[float, ...], list[float]] | None:
    """Class, box x, y, w, h and polygon, 0..1; None where the line has another form."""
    words = line.split()
    first, values = integer(words[0]), [v for v in map(number, words[1:]) if v is not None]
    if first is None or len(values) < len(words) - 1:
        return None
    if len(values) in (4, 5) or (keypoints and len(values) == 4 + keypoints):
        cx, cy, w, h = values[:4]
        return first, (cx - w / 2, cy - h / 2, w, h), []
    polygon = values[: len(values) // 2 * 2]  # an odd number at the end is a confidence
    box = polygon_box([polygon]) if len(polygon) >= 6 else None
    return None if box is None else (first, tuple(box), polygon)


def _polygon_area(points: list[float]) -> float:
    xs, ys = points[::2], points[1::2]
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x * y2 - x2 * y for x, y, (x2, y2) in zip(xs, ys, following, strict=True))) / 2
