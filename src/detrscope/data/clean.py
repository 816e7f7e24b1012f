"""The rules that every reader shares: image sizes, which boxes are kept, the frame they are in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.dataset import Annotation, Box, DetectionDataset, ImageInfo
from detrscope.data.image_files import exists
from detrscope.data.image_reader import FileSize, read_size
from detrscope.data.parse_values import number
from detrscope.data.validation_log import ValidationLog

MIN_SIDE = 0.01  # pixels; a box thinner than this is empty
NOTHING = (0.0, 0.0, 0.0, 0.0)  # the box of an annotation from which nothing can be learned
ROUNDING = 0.5  # pixels that a box may stick out of the image without being reported


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image as a format declares it."""

    id: int
    path: Path
    width: int | None = None  # None where the format does not say
    height: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawBox:
    """An annotation as a format declares it, nothing checked."""

    id: int
    image_id: int
    category_id: int
    bbox_xywh: Any
    area: Any = None
    iscrowd: bool = False
    segmentation: Any = None


def clean_dataset(
    name: str,
    images: Iterable[RawImage],
    boxes: Iterable[RawBox],
    classes: ClassTable,
    problems: ValidationLog,
    *,
    source: Path,
    details: dict[str, Any] | None = None,
) -> DetectionDataset:
    """A dataset from what a format declares, by these rules.

    Sizes. The header of the file decides. Where the declared size fits only the pixels before the turn that
    EXIF asks for, boxes are turned with the pixels. A difference of one pixel is rounding; a larger one
    stops. A file that is missing or damaged is kept with its declared size and fails when it is read.

    Boxes to learn from. Not four finite numbers: dropped. Cut to the image; a side left under 0.01 pixels: not
    learned from. Reported when more than half a pixel was cut. Area: the declared one, else that of the box; that
    of the box too where it was cut. AP is computed on the boxes as declared, these included.

    Args:
        name: of the dataset, for messages.
        images: in order.
        boxes: in any order.
        classes: what is declared.
        problems: where to report.
        source: the file or folder of the annotations, for messages about no image in particular.
        details: kept with the dataset.

    Raises:
        UserError: something that stops, when `problems` is strict.
    """
    infos: dict[int, ImageInfo] = {}
    files: dict[Path, int] = {}
    turns: dict[int, FileSize] = {}
    for raw in images:
        if raw.id in infos:
            problems.add(
                "duplicate-image-id", raw.path, f"image id {raw.id} is also that of {infos[raw.id].path.name}"
            )
            continue
        info, turn = _sized(raw, problems)
        infos[raw.id] = info
        if (other := files.setdefault(raw.path, raw.id)) != raw.id:
            reason = f"image ids {other} and {raw.id} are both this file"
            problems.add("one-file-two-images", raw.path, reason)
        if turn is not None:
            turns[raw.id] = turn

    kept: dict[int, list[Annotation]] = {i: [] for i in infos}
    unusable: dict[int, list[Annotation]] = {}
    declared = dict(zip(classes.ids, classes.names, strict=True))
    suspicions = _Suspicions()
    seen: set[int] = set()
    for box in boxes:
        image = infos.get(box.image_id)
        if box.category_id not in declared:
            where = image.path if image else source
            reason = (
                f"category id {box.category_id} (image id {box.image_id}) is not declared in {source.name}"
            )
            problems.add("undeclared-category", where, reason, box.id, str(box.category_id))
            continue
        category = declared[box.category_id]
        if image is None:
            problems.add(
                "unknown-image", source, f"image id {box.image_id} is not declared", box.id, category
            )
            continue
        if box.id in seen:
            problems.add("duplicate-annotation-id", image.path, "the id is used twice", box.id, category)
        seen.add(box.id)
        annotation = _cleaned(box, image, turns.get(image.id), category, suspicions, problems)
        if annotation is None:
            continue
        if annotation.bbox_xywh == NOTHING:
            unusable.setdefault(image.id, []).append(annotation)
        else:
            kept[image.id].append(annotation)
    suspicions.report(source, problems)
    if problems.strict:
        problems.log_summary(name)
    annotations, outside = ({i: tuple(rows) for i, rows in part.items()} for part in (kept, unusable))
    return DetectionDataset(tuple(infos.values()), annotations, classes, name, details or {}, outside)


def _sized(raw: RawImage, problems: ValidationLog) -> tuple[ImageInfo, FileSize | None]:
    """The image with its upright size; and the turn that its boxes still need, if any."""
    declared = (raw.width, raw.height) if raw.width and raw.height else None
    try:
        size = read_size(raw.path)
    except UserError as error:
        kind = "unreadable-image" if exists(raw.path) else "missing-image"
        problems.add(kind, raw.path, str(error).removeprefix(f"{raw.path}: "))
        width, height = declared or (0, 0)
        return ImageInfo(raw.id, raw.path, width, height, raw.details), None
    info = ImageInfo(raw.id, raw.path, size.width, size.height, raw.details)
    upright = (size.width, size.height)
    if declared is None:
        return info, None
    if declared == upright:
        if size.orientation != 1:
            reason = f"EXIF orientation {size.orientation}, and the declared size fits the upright picture"
            problems.add("exif-ambiguous", raw.path, reason)
        return info, None
    says = f"declared as {declared[0]}x{declared[1]}"
    if declared == size.raw:
        reason = f"{says}, but EXIF orientation {size.orientation} makes it {upright[0]}x{upright[1]}"
        problems.add("exif-turned", raw.path, reason)
        return info, size
    near = max(abs(declared[0] - upright[0]), abs(declared[1] - upright[1])) <= 1
    reason = f"{says}, the file has {upright[0]}x{upright[1]} pixels"
    problems.add("size-rounded" if near else "size-mismatch", raw.path, reason)
    return info, None


def _cleaned(
    raw: RawBox,
    image: ImageInfo,
    turn: FileSize | None,
    category: str,
    suspicions: _Suspicions,
    problems: ValidationLog,
) -> Annotation | None:
    """The annotation by the rules of `clean_dataset`; None where it is dropped."""
    box = _numbers(raw.bbox_xywh)
    if box is None:
        reason = f"the box is {repr(raw.bbox_xywh)[:80]}, not four finite numbers"
        problems.add("bad-box", image.path, reason, raw.id, category)
        return None
    declared = box if turn is None else turned(box, *turn.raw, turn.orientation)
    area = raw.area if isinstance(raw.area, int | float) and math.isfinite(raw.area) else None
    if raw.area is None:
        problems.add("missing-area", image.path, "no area", raw.id, category)
    segmentation = raw.segmentation if turn is None else _turned_polygons(raw.segmentation, turn)
    declared_area = box[2] * box[3] if area is None else float(area)
    unusable = Annotation(
        raw.id, raw.category_id, NOTHING, 0.0, raw.iscrowd, segmentation, declared, declared_area
    )
    if box[2] < MIN_SIDE or box[3] < MIN_SIDE:
        what = "a negative width or height" if min(box[2:]) < 0 else "no width or no height"
        problems.add("empty-box", image.path, f"{_shown(box)} has {what}", raw.id, category)
        return unusable
    left, top, width, height = declared
    x0, y0, x1, y1 = left, top, left + width, top + height
    if image.width and image.height:  # else nothing is known to cut it to
        x0, y0 = max(0.0, left), max(0.0, top)
        x1, y1 = min(float(image.width), x1), min(float(image.height), y1)
        suspicions.see(declared, image)
    if x1 - x0 < MIN_SIDE or y1 - y0 < MIN_SIDE:
        reason = f"{_shown(box)} is outside the {image.width}x{image.height} image"
        problems.add("box-outside", image.path, reason, raw.id, category)
        return unusable
    cut = max(x0 - left, y0 - top, left + width - x1, top + height - y1)
    if cut > ROUNDING:
        reason = f"{_shown(box)} sticks {cut:.4g} pixels out of the {image.width}x{image.height} image"
        problems.add("box-clipped", image.path, reason, raw.id, category)
    usable = (x0, y0, x1 - x0, y1 - y0) if cut > 0 else declared
    whole = area is not None and area > 0 and cut <= ROUNDING
    learned_area = declared_area if whole else usable[2] * usable[3]
    return Annotation(
        raw.id,
        raw.category_id,
        usable,
        learned_area,
        raw.iscrowd,
        segmentation,
        declared if cut > 0 else None,
        declared_area if declared_area != learned_area else None,
    )


def _shown(box: Box) -> str:
    return f"box [{', '.join(f'{v:g}' for v in box)}]"


def _numbers(values: Any) -> Box | None:
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None
    left, top, width, height = map(number, values)
    if left is None or top is None or width is None or height is None:
        return None
    return left, top, width, height


def turned(box: Box, width: int, height: int, orientation: int) -> Box:
    """A box of the stored `width` x `height` pixels in the upright frame of an EXIF orientation 5..8."""
    left, top, w, h = box
    right, bottom = left + w, top + h
    x, y = {
        5: (top, left),
        6: (height - bottom, left),
        7: (height - bottom, width - right),
        8: (top, width - right),
    }[orientation]
    return x, y, h, w


def _turned_polygons(segmentation: Any, size: FileSize) -> Any:
    """Polygons in the upright frame. A run-length mask cannot be turned by its numbers and is left out."""
    if not isinstance(segmentation, list):
        return None
    width, height = size.raw

    def point(x: float, y: float) -> Sequence[float]:
        return turned((x, y, 0.0, 0.0), width, height, size.orientation)[:2]

    return [
        [v for x, y in zip(polygon[::2], polygon[1::2], strict=False) for v in point(x, y)]
        for polygon in segmentation
    ]


class _Suspicions:
    """Do the boxes look like two corners taken for corner and size, or like fractions taken for pixels?

    Two corners: as [x, y, width, height] a tenth of them or more leave the image, and as [left, top, right, bottom]
    nearly all are proper boxes inside it. Fractions: nearly all lie within the first pixel of a larger image.
    """

    def __init__(self) -> None:
        self.boxes = self.overhanging = self.proper = self.fractions = 0

    def see(self, box: Box, image: ImageInfo) -> None:
        left, top, width, height = box
        self.boxes += 1
        self.overhanging += left + width > image.width + 1 or top + height > image.height + 1
        self.proper += left < width <= image.width + 1 and top < height <= image.height + 1
        within = left >= 0 and top >= 0 and left + width <= 1.001 and top + height <= 1.001
        self.fractions += within and min(image.width, image.height) > 2

    def report(self, source: Path, problems: ValidationLog) -> None:
        if self.boxes and self.overhanging >= 0.1 * self.boxes and self.proper >= 0.95 * self.boxes:
            reason = (
                f"{self.overhanging} of {self.boxes} boxes leave their image as x, y, width, height, "
                "and all would fit as two corners (xyxy)"
            )
            problems.add("box-like-xyxy", source, reason)
        if self.boxes and self.fractions >= 0.95 * self.boxes:
            reason = f"{self.fractions} of {self.boxes} boxes lie within one pixel: meant as fractions of the image?"
            problems.add("box-like-fractions", source, reason)
