"""Rules that every reader shares: image sizes, the frame of the boxes, and which boxes become training targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detrscope.core.classes import ClassTable
from detrscope.core.errors import UserError
from detrscope.data.dataset import Annotation, Box, DetectionDataset, ImageInfo
from detrscope.data.image_files import exists
from detrscope.data.image_header import FileSize, read_size
from detrscope.data.validation_log import ValidationLog

MIN_SIDE = 0.01  # pixels; a box thinner than this is empty
EMPTY = (0.0, 0.0, 0.0, 0.0)  # box of an annotation from which nothing can be learned
ROUNDING = 0.5  # pixels that a box may stick out of the image without being reported


def clean_dataset(
    name: str,
    images: Iterable[ImageInfo],
    annotations: Iterable[Annotation],
    classes: ClassTable,
    validation: ValidationLog,
    *,
    source: Path,
    details: dict[str, Any] | None = None,
) -> DetectionDataset:
    """Return the dataset that a source declares, checked and cleaned by these rules.

    Sizes: the header of the file decides. Where the declared size fits only the pixels before the EXIF turn, boxes are
    turned with the pixels. A difference of one pixel is rounding; a larger one stops. A file that is missing or damaged
    is kept with its declared size and fails when it is read.

    A box that is not finite is dropped. Boxes are cut to the image; one with a side under 0.01 pixels left is not
    learned from. A cut of more than half a pixel is reported. The area is the declared one, else that of the box; that
    of the box too where it was cut. AP is computed on the boxes as declared, empty ones included.

    Args:
        name: Name of the dataset, for messages.
        images: Images as declared, in order.
        annotations: Annotations as declared, in any order.
        classes: Declared classes.
        validation: Log to report to.
        source: File or folder of the annotations, for messages about no image in particular.
        details: Other fields to keep with the dataset.

    Raises:
        UserError: a problem that stops, when `validation` is strict.
    """
    infos: dict[int, ImageInfo] = {}
    files: dict[Path, int] = {}
    turns: dict[int, FileSize] = {}
    for image in images:
        if image.id in infos:
            reason = f"image id {image.id} is also that of {infos[image.id].path.name}"
            validation.add("duplicate-image-id", image.path, reason)
            continue
        infos[image.id], turn = _with_upright_size(image, validation)
        if (other := files.setdefault(image.path, image.id)) != image.id:
            reason = f"image ids {other} and {image.id} are both this file"
            validation.add("one-file-two-images", image.path, reason)
        if turn is not None:
            turns[image.id] = turn

    usable: dict[int, list[Annotation]] = {i: [] for i in infos}
    unusable: dict[int, list[Annotation]] = {}
    names = dict(zip(classes.ids, classes.names, strict=True))
    formats = _BoxFormatStatistics()
    ids: set[int] = set()
    for a in annotations:
        info = infos.get(a.image_id)
        if a.category_id not in names:
            where = info.path if info else source
            reason = f"category id {a.category_id} (image id {a.image_id}) is not declared in {source.name}"
            validation.add("undeclared-category", where, reason, a.id, str(a.category_id))
            continue
        category = names[a.category_id]
        if info is None:
            validation.add("unknown-image", source, f"image id {a.image_id} is not declared", a.id, category)
            continue
        if a.id in ids:
            validation.add("duplicate-annotation-id", info.path, "the id is used twice", a.id, category)
        ids.add(a.id)
        if not all(map(math.isfinite, a.bbox_xywh)):  # products of large numbers overflow
            reason = f"the box is {list(a.bbox_xywh)}, not four finite numbers"
            validation.add("bad-box", info.path, reason, a.id, category)
            continue
        cleaned = _cleaned(a, info, turns.get(info.id), category, formats, validation)
        rows = unusable.setdefault(info.id, []) if cleaned.bbox_xywh == EMPTY else usable[info.id]
        rows.append(cleaned)
    formats.report(source, validation)
    if validation.strict:
        validation.log_summary(name)
    return DetectionDataset(
        tuple(infos.values()),
        {i: tuple(rows) for i, rows in usable.items()},
        classes,
        name,
        details or {},
        {i: tuple(rows) for i, rows in unusable.items()},
    )


def _with_upright_size(image: ImageInfo, validation: ValidationLog) -> tuple[ImageInfo, FileSize | None]:
    """Return the image with its upright size, and the size whose EXIF turn its boxes still need, if any."""
    declared = (image.width, image.height) if image.width and image.height else None
    try:
        size = read_size(image.path)
    except UserError as error:
        kind = "unreadable-image" if exists(image.path) else "missing-image"
        validation.add(kind, image.path, str(error).removeprefix(f"{image.path}: "))
        return (image if declared else replace(image, width=0, height=0)), None
    upright = (size.width, size.height)
    info = replace(image, width=size.width, height=size.height)
    if declared is None:
        return info, None
    if declared == upright:
        if size.orientation != 1:
            reason = f"EXIF orientation {size.orientation}, and the declared size fits the upright image"
            validation.add("exif-ambiguous", image.path, reason)
        return info, None
    prefix = f"declared as {declared[0]}x{declared[1]}"
    if declared == size.raw:
        reason = f"{prefix}, but EXIF orientation {size.orientation} makes it {upright[0]}x{upright[1]}"
        validation.add("exif-turned", image.path, reason)
        return info, size
    near = max(abs(declared[0] - upright[0]), abs(declared[1] - upright[1])) <= 1
    reason = f"{prefix}, the file has {upright[0]}x{upright[1]} pixels"
    validation.add("size-rounded" if near else "size-mismatch", image.path, reason)
    return info, None


def _cleaned(
    a: Annotation,
    image: ImageInfo,
    turn: FileSize | None,
    category: str,
    formats: _BoxFormatStatistics,
    validation: ValidationLog,
) -> Annotation:
    """Return the annotation by the rules of `clean_dataset`, with the box `EMPTY` where nothing can be learned."""
    box = declared = a.bbox_xywh
    if math.isnan(a.area):
        validation.add("missing-area", image.path, "no area", a.id, category)
    declared_area = box[2] * box[3] if math.isnan(a.area) else a.area
    if turn is not None:
        declared = turn_annotations(box, *turn.raw, turn.orientation)
        a = replace(a, bbox_xywh=declared, segmentation=_turned_polygons(a.segmentation, turn))

    def unusable(kind: str, reason: str) -> Annotation:
        validation.add(kind, image.path, f"{_text(box)} {reason}", a.id, category)
        return replace(a, bbox_xywh=EMPTY, area=0.0, declared_xywh=declared, declared_area=declared_area)

    if box[2] < MIN_SIDE or box[3] < MIN_SIDE:
        negative = min(box[2:]) < 0
        return unusable(
            "empty-box", "has a negative width or height" if negative else "has no width or no height"
        )
    left, top, width, height = declared
    x0, y0, x1, y1 = left, top, left + width, top + height
    if image.width and image.height:  # else there is no size to cut it to
        x0, y0 = max(0.0, left), max(0.0, top)
        x1, y1 = min(float(image.width), x1), min(float(image.height), y1)
        formats.count(declared, image)
    if x1 - x0 < MIN_SIDE or y1 - y0 < MIN_SIDE:
        return unusable("box-outside", f"is outside the {image.width}x{image.height} image")
    cut = max(x0 - left, y0 - top, left + width - x1, top + height - y1)
    if cut > ROUNDING:
        reason = f"{_text(box)} sticks {cut:.4g} pixels out of the {image.width}x{image.height} image"
        validation.add("box-clipped", image.path, reason, a.id, category)
    if cut <= 0 and a.area > 0:
        return a  # by far the most
    usable = (x0, y0, x1 - x0, y1 - y0) if cut > 0 else declared
    area = a.area if a.area > 0 and cut <= ROUNDING else usable[2] * usable[3]
    return replace(
        a,
        bbox_xywh=usable,
        area=area,
        declared_xywh=declared if cut > 0 else None,
        declared_area=declared_area if declared_area != area else None,
    )


def _text(box: Box) -> str:
    return f"box [{', '.join(f'{v:g}' for v in box)}]"


def turn_annotations(box: Box, width: int, height: int, orientation: int) -> Box:
    """Return a box of the stored `width` x `height` pixels in the upright frame of an EXIF orientation 5..8."""
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
    """Return polygons in the upright frame. Run lengths cannot be turned by their numbers and are left out."""
    if not isinstance(segmentation, list):
        return None
    width, height = size.raw

    def point(x: float, y: float) -> Sequence[float]:
        return turn_annotations((x, y, 0.0, 0.0), width, height, size.orientation)[:2]

    return [
        [v for x, y in zip(polygon[::2], polygon[1::2], strict=False) for v in point(x, y)]
        for polygon in segmentation
    ]


class _BoxFormatStatistics:
    """Counts that show boxes of another format: two corners taken for corner and size, fractions taken for pixels.

    Two corners: as [x, y, width, height] a tenth of them or more leave the image, and as [left, top, right, bottom]
    nearly all are proper boxes inside it. Fractions: nearly all lie within the first pixel of a larger image.
    """

    def __init__(self) -> None:
        self.boxes = self.overhanging = self.proper = self.fractions = 0

    def count(self, box: Box, image: ImageInfo) -> None:
        left, top, width, height = box
        self.boxes += 1
        self.overhanging += left + width > image.width + 1 or top + height > image.height + 1
        self.proper += left < width <= image.width + 1 and top < height <= image.height + 1
        within = left >= 0 and top >= 0 and left + width <= 1.001 and top + height <= 1.001
        self.fractions += within and min(image.width, image.height) > 2

    def report(self, source: Path, validation: ValidationLog) -> None:
        if self.boxes and self.overhanging >= 0.1 * self.boxes and self.proper >= 0.95 * self.boxes:
            reason = (
                f"{self.overhanging} of {self.boxes} boxes leave their image as x, y, width, height, "
                "and all would fit as two corners (xyxy)"
            )
            validation.add("box-like-xyxy", source, reason)
        if self.boxes and self.fractions >= 0.95 * self.boxes:
            reason = f"{self.fractions} of {self.boxes} boxes lie within one pixel: meant as fractions of the image?"
            validation.add("box-like-fractions", source, reason)
