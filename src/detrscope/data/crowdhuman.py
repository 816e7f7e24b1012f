"""Read CrowdHuman's `.odgt`: one JSON object per line and image. No kept library reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detrscope.core.errors import UserError
from detrscope.core.json_schema import short_repr
from detrscope.core.text_files import parse_json, read_lines
from detrscope.data.dataset import DetectionDataset
from detrscope.data.image_files import exists, is_folder, is_hidden, is_image_file
from detrscope.data.image_finder import ImageFinder, is_file_name
from detrscope.data.labelled_images import LabelledImage, numbered_classes, to_dataset
from detrscope.data.parse_values import ROW_LENGTH, parse_boolean, parse_box_xywh
from detrscope.data.shapes import Shape
from detrscope.data.splits import ANY, find_split
from detrscope.data.validation_log import ValidationLog

LAYOUT = "annotation_SPLIT.odgt + Images/"
PERSON, MASK = "person", "mask"  # a mask is a crowd, a reflection, a statue: no person to be found or missed
_SUFFIXES = (".jpg", ".jpeg", ".png")  # CrowdHuman has .jpg
_NAME = re.compile(r"(?:annotations?_)?(?P<split>.+)", re.IGNORECASE)


def splits(source: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files that each split may mean; empty where there is none."""
    if not is_folder(source):
        return {ANY: (source,)}
    files = [path for path in sorted(source.glob("*.odgt")) if not is_hidden(path)]
    files += [path for path in sorted(source.glob("annotations/*.odgt")) if not is_hidden(path)]
    found: dict[str, tuple[Path, ...]] = {}
    for path in files:
        match = _NAME.fullmatch(path.stem)
        name = match["split"] if match else path.stem
        found[name] = (*found.get(name, ()), path)
    return found


def read_split(
    source: Path, split: str, validation: ValidationLog, details: bool = False
) -> DetectionDataset:
    """Read one split of a folder, or a file.

    The full body `fbox` is taken, on which CrowdHuman's own figures are computed; it may leave the image. The visible
    part `vbox` and the head `hbox` are not read. Objects of the tag `mask` become crowds of the class person, and those
    with `ignore` 1 crowds. Category ids: person is 1, other tags follow alphabetically. Image and annotation ids count
    from 1.

    Raises:
        UserError: there is no such split, two files are named as it, or a line cannot be read.
    """
    files = splits(source)
    paths = files[find_split(split, files, str(source))]
    if len(paths) > 1:
        names = " or ".join(str(path.relative_to(source)) for path in paths)
        raise UserError(
            f"{source}: the annotations of '{split}' may be {names}; remove one, or give its path"
        )
    path = paths[0]
    rows = list(_rows(path, validation))
    find = ImageFinder(path, None, single=True)
    find.expect(name for _, name, _ in rows)
    images = [LabelledImage(_image(find, name), path, shapes=shapes) for _, name, shapes in rows]
    others = {shape.label for _, _, shapes in rows for shape in shapes}
    for other in (file for members in files.values() for file in members):
        if other != path:
            quiet = ValidationLog(split, strict=False)
            others |= {shape.label for _, _, shapes in _rows(other, quiet) for shape in shapes}
    classes = numbered_classes([PERSON], others)
    name = f"{source.stem} {split}"
    return to_dataset(name, images, classes, validation, source=path, details=details)


def _image(find: ImageFinder, name: str) -> Path:
    """Return the file of an image, whose name is written without its suffix."""
    if is_image_file(Path(name)):
        return find(name)
    candidates = [find(name + suffix) for suffix in _SUFFIXES]
    return next(filter(exists, candidates), candidates[0])


def _rows(path: Path, validation: ValidationLog) -> Iterator[tuple[int, str, list[Shape]]]:
    """Yield line number, name and objects of each image; report what cannot be read."""
    for line, text in enumerate(read_lines(path), start=1):
        try:
            row = parse_json(text, f"line {line}")
        except UserError as error:
            validation.add("bad-label", path, str(error))
            continue
        name = row.get("ID") if isinstance(row, dict) else None
        boxes = row.get("gtboxes") if isinstance(row, dict) else None
        if not isinstance(name, str) or not is_file_name(name) or not isinstance(boxes, list):
            reason = (
                f"line {line}: expected an 'ID' and a list 'gtboxes', found {short_repr(row, ROW_LENGTH)}"
            )
            validation.add("bad-label", path, reason)
            continue
        yield line, name, list(_shapes(path, f"line {line}", boxes, validation))


def _shapes(path: Path, line: str, boxes: list[Any], validation: ValidationLog) -> Iterator[Shape]:
    for position, row in enumerate(boxes):
        place = f"{line}: gtboxes[{position}]"
        tag = row.get("tag") if isinstance(row, dict) else None
        if not isinstance(tag, str) or not tag.strip():
            validation.add("bad-label", path, f"{place}: expected a box with a 'tag'")
            continue
        box = parse_box_xywh(row.get("fbox"))
        if box is None:
            reason = f"{place}: fbox is {short_repr(row.get('fbox'))}, not four finite numbers"
            validation.add("bad-box", path, reason, category=tag)
            continue
        extra = row.get("extra")
        ignored = parse_boolean(extra.get("ignore")) if isinstance(extra, dict) else False
        if ignored is None:
            validation.add("bad-value", path, f"{place}: ignore is {short_repr(extra['ignore'], 40)}")
            continue
        crowd = ignored or tag.strip() == MASK
        label = PERSON if tag.strip() == MASK else tag.strip()
        yield Shape(label, box, box[2] * box[3], iscrowd=crowd)
